//! Bodies of the fuzz targets: any bytes in, a panic where an invariant fails.
//!
//! To add one: a function in a file of `targets/`, a line in [`TARGETS`] with
//! its seeds, and a file of three lines in `fuzz/fuzz_targets`.

pub mod container;
#[cfg(feature = "tools")]
pub mod payload;
#[cfg(feature = "tools")]
pub mod sources;
#[cfg(feature = "tools")]
pub mod text;

use crate::corpus::Corpus;

/// A fuzz target.
pub struct Target {
    /// Name, also of the file in `fuzz/fuzz_targets` and the folders of seeds
    /// and regressions.
    pub name: &'static str,
    /// Runs it on one input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn(&Corpus) -> Vec<Vec<u8>>,
}

/// Every target of this build.
pub const TARGETS: &[Target] = &[
    Target { name: "squizd", run: container::whole, seeds: container::files },
    Target { name: "sealed", run: container::sealed, seeds: container::edits },
    Target { name: "prefix", run: container::prefix, seeds: container::files },
    Target { name: "sections", run: container::sections, seeds: container::section_seeds },
    #[cfg(feature = "tools")]
    Target { name: "codec", run: payload::codec, seeds: payload::seeds },
    #[cfg(feature = "tools")]
    Target { name: "gguf", run: sources::gguf, seeds: |c| sources::of(c, "gguf") },
    #[cfg(feature = "tools")]
    Target { name: "safetensors", run: sources::safetensors, seeds: |c| sources::of(c, "safetensors") },
    #[cfg(feature = "tools")]
    Target { name: "index", run: sources::index, seeds: |c| sources::in_folders(c, "index", "index.json") },
    #[cfg(feature = "tools")]
    Target {
        name: "config",
        run: sources::config,
        seeds: |c| sources::in_folders(c, "config", "config.json"),
    },
    #[cfg(feature = "tools")]
    Target { name: "sentencepiece", run: sources::sentencepiece, seeds: sources::pieces },
    #[cfg(feature = "tools")]
    Target { name: "tokenizer", run: text::tokenizer, seeds: |c| sources::of(c, "tokenizer") },
    #[cfg(feature = "tools")]
    Target { name: "template", run: text::template, seeds: text::templates },
    #[cfg(feature = "tools")]
    Target { name: "metadata", run: text::metadata, seeds: text::metadata_seeds },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
