//! Kernels as Metal source.
//!
//! ```text
//! cargo run -p squizd-shaders --example msl                   writes shaders/msl/
//! cargo run -p squizd-shaders --example msl -- KERNEL [FLAG | NAME=VALUE | --unchecked]...
//! ```
//! The second prints one kernel. It begins with the constants and flags of its
//! file in `shaders/msl/` only if none are given.

use squizd_shaders::msl::{Checks, generate, shipped};
use squizd_shaders::{KERNELS, Options};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else { return write_all() };
    let kernel = KERNELS.iter().find(|k| k.name == name).ok_or_else(|| {
        let names: Vec<_> = KERNELS.iter().map(|k| k.name).collect();
        format!("there is no kernel {name:?}; there are: {}", names.join(", "))
    })?;
    let (mut options, mut checks) = (Options::default(), Checks::Restrict);
    for argument in arguments {
        if argument == "--unchecked" {
            checks = Checks::None;
            continue;
        }
        // Options hold the names of a program's text; this one is short-lived.
        let argument: &'static str = argument.leak();
        options = match argument.split_once('=') {
            Some((name, value)) => options.with(name, value.parse()?),
            None => options.flag(argument),
        };
    }
    if options == Options::default() {
        options =
            shipped().into_iter().find(|s| s.kernel == kernel.name).map(|s| s.options).unwrap_or_default();
    }
    print!("{}", generate(kernel.name, &options, checks)?.source);
    Ok(())
}

/// Writes every file of `shaders/msl/`, and removes what is not one.
fn write_all() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("msl");
    std::fs::create_dir_all(&folder)?;
    let mut names = Vec::new();
    for shipped in shipped() {
        let metal = generate(shipped.kernel, &shipped.options, Checks::Restrict)?;
        let name = format!("{}.metal", shipped.stem);
        std::fs::write(folder.join(&name), metal.source)?;
        names.push(name);
    }
    for entry in std::fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !names.contains(&name) {
            std::fs::remove_file(folder.join(name))?;
        }
    }
    println!("{} files in {}", names.len(), folder.display());
    Ok(())
}
