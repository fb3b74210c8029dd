//! Kernels as Metal source, for runtimes that do not go through `wgpu`.
//!
//! `shaders/msl/` holds what [`shipped`] lists, written by
//! `cargo run -p squizd-shaders --example msl`; [`generate`] makes any other
//! kernel. `docs/metal.md` says how to bind them.

use crate::variants::cases;
use crate::{KERNELS, Kernel, Options, TemplateError, assemble};
use naga::back::msl;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, GlobalUse, ValidationFlags, Validator};
use naga::{AddressSpace, ShaderStage, StorageAccess};
use std::fmt::{self, Write as _};

/// Buffer index of the kernel's numbers (`p` in the source).
pub const IMMEDIATES: u8 = 10;
/// Buffer index of the lengths of bound buffers, [`Metal::sizes`].
pub const SIZES: u8 = 11;
/// Name of the function in every source.
pub const ENTRY: &str = "main_";
/// Language version that sources ask for: macOS 13, iOS 16.
pub const LANGUAGE: (u8, u8) = (3, 0);

/// Whether buffers' ends are watched over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    /// An index beyond a buffer's end is drawn to its last element, so that no
    /// file, however damaged, makes a kernel reach other memory.
    #[default]
    Restrict,
    /// None: only for files that have been validated and hashed.
    None,
}

/// A storage buffer of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its name in the source.
    pub name: String,
    /// Buffer index.
    pub slot: u8,
    /// Whether the kernel writes it.
    pub write: bool,
}

/// A texture of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texture {
    /// Its name in the source.
    pub name: String,
    /// Texture index.
    pub slot: u8,
}

/// A kernel in the Metal Shading Language, and what its pipeline is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metal {
    /// The source, which begins with the rest as comments.
    pub source: String,
    /// Threads of a threadgroup, along x.
    pub threads: u32,
    /// Storage buffers.
    pub buffers: Vec<Buffer>,
    /// Textures.
    pub textures: Vec<Texture>,
    /// Bytes of the kernel's numbers at [`IMMEDIATES`].
    pub immediates: u32,
    /// Buffer indices whose lengths in bytes, as `u32`, are bound at [`SIZES`],
    /// in this order; empty if the kernel reads none.
    pub sizes: Vec<u8>,
    /// Bytes of threadgroup memory, by index, multiples of 16.
    pub threadgroup_memory: Vec<u32>,
}

/// A kernel could not be generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MslError(String);

impl fmt::Display for MslError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MslError {}

impl From<TemplateError> for MslError {
    fn from(e: TemplateError) -> Self {
        Self(e.to_string())
    }
}

/// The kernel `name` of [`KERNELS`] with `options` as Metal source.
///
/// # Errors
/// If the kernel cannot be put together, or is no valid shader with these
/// options (a constant is missing, say).
pub fn generate(name: &str, options: &Options, checks: Checks) -> Result<Metal, MslError> {
    let text = assemble(name, options)?;
    let module = naga::front::wgsl::parse_str(&text).map_err(|e| MslError(e.emit_to_string(&text)))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| MslError(e.emit_to_string(&text)))?;
    let (Some(entry), true) = (module.entry_points.first(), module.entry_points.len() == 1) else {
        return Err(MslError(format!("kernel {name} has no single entry point")));
    };
    let uses = info.get_entry_point(0);

    let mut resources = msl::EntryPointResources {
        immediates_buffer: Some(IMMEDIATES),
        sizes_buffer: Some(SIZES),
        ..Default::default()
    };
    let mut metal = Metal {
        source: String::new(),
        threads: entry.workgroup_size.iter().product(),
        buffers: Vec::new(),
        textures: Vec::new(),
        immediates: 0,
        sizes: Vec::new(),
        threadgroup_memory: Vec::new(),
    };
    for (handle, variable) in module.global_variables.iter() {
        let inner = &module.types[variable.ty].inner;
        let used = uses[handle] != GlobalUse::empty();
        let slot_of = |binding: naga::ResourceBinding| {
            let slot = u8::try_from(binding.binding).ok();
            slot.filter(|slot| *slot < IMMEDIATES && binding.group == 0)
                .ok_or_else(|| MslError(format!("kernel {name} binds {binding:?}")))
        };
        match (variable.space, variable.binding) {
            (AddressSpace::Storage { access }, Some(binding)) => {
                let slot = slot_of(binding)?;
                let write = access.contains(StorageAccess::STORE);
                let target = msl::BindTarget { buffer: Some(slot), mutable: write, ..Default::default() };
                resources.resources.insert(binding, target);
                if inner.needs_host_buffer_byte_size(&module.types) {
                    metal.sizes.push(slot);
                }
                if used {
                    let name = variable.name.clone().unwrap_or_default();
                    metal.buffers.push(Buffer { name, slot, write });
                }
            }
            (AddressSpace::Handle, Some(binding)) => {
                let slot = slot_of(binding)?;
                let target = msl::BindTarget { texture: Some(slot), ..Default::default() };
                resources.resources.insert(binding, target);
                metal.textures.push(Texture { name: variable.name.clone().unwrap_or_default(), slot });
            }
            (AddressSpace::Immediate, _) => metal.immediates = inner.size(module.to_ctx()),
            (AddressSpace::WorkGroup, _) if used => {
                metal.threadgroup_memory.push(inner.size(module.to_ctx()).next_multiple_of(16));
            }
            _ => {}
        }
    }
    metal.buffers.sort_by_key(|b| b.slot);

    let policy = match checks {
        Checks::Restrict => BoundsCheckPolicy::Restrict,
        Checks::None => BoundsCheckPolicy::Unchecked,
    };
    let settings = msl::Options {
        lang_version: LANGUAGE,
        per_entry_point_map: [(entry.name.clone(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            image_load: policy,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        // Kernels write workgroup memory before they read it, and their loops
        // end by bounds fixed before they begin.
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.name.clone())),
        ..Default::default()
    };
    let (source, _) = msl::write_string(&module, &info, &settings, &pipeline)
        .map_err(|e| MslError(format!("{name}: {e}")))?;
    if !source.contains("_buffer_sizes") {
        metal.sizes.clear();
    }
    metal.source = format!("{}\n{source}", about(name, options, &metal));
    Ok(metal)
}

/// The comment above a source.
fn about(name: &str, options: &Options, metal: &Metal) -> String {
    let mut out = format!("// {name}\n");
    // Writing to a string cannot fail.
    let mut line = |label: &str, text: String| {
        if !text.is_empty() {
            let _ = writeln!(out, "// {label}: {text}");
        }
    };
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    line("flags", options.flags.join(", "));
    line("constants", list(&mut options.constants.iter().map(|(n, v)| format!("{n} = {v}"))));
    line("threads of a threadgroup", metal.threads.to_string());
    let buffer = |b: &Buffer| format!("{} {}{}", b.slot, b.name, if b.write { " (written)" } else { "" });
    line("buffers", list(&mut metal.buffers.iter().map(buffer)));
    line("textures", list(&mut metal.textures.iter().map(|t| format!("{} {}", t.slot, t.name))));
    if metal.immediates > 0 {
        line("numbers", format!("buffer {IMMEDIATES}, {} bytes", metal.immediates));
    }
    if !metal.sizes.is_empty() {
        let slots = list(&mut metal.sizes.iter().map(u8::to_string));
        line("sizes", format!("buffer {SIZES}, bytes of buffers {slots} as u32"));
    }
    let memory = metal.threadgroup_memory.iter().enumerate();
    line("threadgroup memory", list(&mut memory.map(|(i, n)| format!("index {i}: {n} bytes"))));
    out.push_str("// Generated by `cargo run -p squizd-shaders --example msl`; see docs/metal.md.\n");
    out
}

/// A source of `shaders/msl/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipped {
    /// File name without `.metal`: the kernel's, with `_f16`, `_i8` or `_i24` for other
    /// forms of input than f32, `_coop` for halves and matrices of a SIMD group,
    /// `_texture` if it samples its blocks.
    pub stem: String,
    /// The kernel.
    pub kernel: &'static str,
    /// What it is assembled with.
    pub options: Options,
}

/// What a shipped kernel has beyond the least, by the codec's or frame's name.
const PREFERRED: &[(&str, &[&str])] = &[
    // Of many: sums by subgroup operations, which fit any size of subgroup.
    ("gemv", &["SUBGROUP"]),
    // Matrices of halves: made of halves, too.
    ("int4", &["F16"]),
    ("int3", &["F16"]),
    ("int2", &["F16"]),
    ("astc", &["OFTEN"]),
    ("sqint2", &["PAIRS"]),
    ("raw", &["ALIGNED", "BRAIN"]),
    ("rope", &["ROPE"]),
    ("gated", &["SILU"]),
];

/// Flags that say what form the input or output has, or by what it is multiplied.
const FORMS: &[(&str, &str)] = &[
    ("EIGHT", "_coop"),
    ("F16", "_f16"),
    ("HALVES_OUT", "_f16"),
    ("I8", "_i8"),
    ("I24", "_i24"),
    ("TEXTURE", "_texture"),
];

/// The sources of `shaders/msl/`: each kernel with each form of input, in its
/// plainest layout.
pub fn shipped() -> Vec<Shipped> {
    let all = cases();
    let of = |kernel: &Kernel, suffix: &str| {
        let wanted: Vec<&str> = PREFERRED
            .iter()
            .filter(|(name, _)| [kernel.frame, kernel.codec].contains(name))
            .flat_map(|(_, flags)| flags.iter().copied())
            .collect();
        // Few unwanted flags, many wanted ones; the first of equals.
        let rank = |options: &Options| {
            let missed = wanted.iter().filter(|w| !options.flags.contains(w)).count();
            missed * 8 + options.flags.len()
        };
        let suffix_of =
            |o: &Options| FORMS.iter().find(|(f, _)| o.flags.contains(f)).map_or("", |(_, suffix)| suffix);
        let (_, options) = all
            .iter()
            .filter(|(name, options)| *name == kernel.name && suffix_of(options) == suffix)
            // Metal's matrices are of eight.
            .filter(|(_, o)| !o.flags.contains(&"COOP") || o.flags.contains(&"EIGHT"))
            .min_by_key(|(_, options)| rank(options))?;
        let options = shaped(kernel, options.clone());
        Some(Shipped { stem: format!("{}{suffix}", kernel.name), kernel: kernel.name, options })
    };
    KERNELS
        .iter()
        .flat_map(|k| {
            ["", "_f16", "_i8", "_i24", "_coop", "_texture"].into_iter().filter_map(move |s| of(k, s))
        })
        .collect()
}

/// The same with workgroups that suit wide matrices.
fn shaped(kernel: &Kernel, options: Options) -> Options {
    match kernel.frame {
        "gemv" => {
            let mut options = options;
            let whole = options.flags.iter().any(|f| ["I8", "I24"].contains(f));
            let rows = if whole { 2 } else { 4 };
            // Floats are read as callers have them, in order.
            if !whole && !options.flags.contains(&"F16") {
                options.flags.retain(|f| *f != "TILED");
            }
            let unroll = if options.flags.contains(&"BLOCKS") { 1 } else { 2 };
            options.with("WG", 64).with("LANES", 64).with("ROWS", rows).with("UNROLL", unroll)
        }
        "norm" | "gated" | "argmax" | "softcap" | "combine" | "attention" | "attention_join" => {
            options.with("WG", 256)
        }
        _ => options,
    }
}
