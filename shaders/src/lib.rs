//! WGSL kernels of the `.squizd` format, as text.
//!
//! A kernel is assembled from a *frame* (what is computed: a product with one
//! vector, with many, rows looked up) and a *codec* (how stored blocks are
//! read), see [`KERNELS`]; `docs/gpu.md` explains how the two meet. [`assemble`]
//! puts them together by a handful of directives, each a line of its own:
//!
//! ```text
//! //: use NAME            NAME.wgsl here, once; `CODEC` stands for the kernel's codec
//! //: if FLAG             the lines up to `else` or `end` if the flag is set (`!FLAG`: if not;
//!                         `A|B`: if any is, `!A|B`: if none is)
//! //: else
//! //: end
//! //: each V COUNT        the lines up to `end`, COUNT (a constant) times; $V is the turn
//! ```
//!
//! Constants become `const NAME: u32 = value;` before the text, and the flags
//! `F16` and `COOP` enable what they need (halves, cooperative matrices of them).

#[cfg(feature = "msl")]
pub mod msl;
mod template;
pub mod variants;

pub use template::{Options, TemplateError, assemble};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        /// Every file by its name.
        pub const SOURCES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../", $name, ".wgsl")))),*];
    };
}

sources! {
    "activation",
    "active",
    "affine",
    "argmax",
    "astc",
    "attention",
    "attention_join",
    "combine",
    "copy_ceiling",
    "dots",
    "emit",
    "encode",
    "fields",
    "gated",
    "gemm",
    "gemm_coop",
    "gemv",
    "halves",
    "hybrid",
    "input",
    "int2",
    "int3",
    "int4",
    "int_scales",
    "mxfp4",
    "nf2",
    "norm",
    "params",
    "part",
    "prepare",
    "put",
    "q8",
    "raw",
    "read_ceiling",
    "reduce",
    "rope",
    "rotate",
    "route",
    "rows",
    "shares",
    "softcap",
    "sqint2",
    "stage",
    "strips",
    "top_k",
    "total",
    "zip",
    "zip_share",
}

/// A kernel by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name, as callers and the generated Metal files know it.
    pub name: &'static str,
    /// File of the frame.
    pub frame: &'static str,
    /// File of the codec, empty for kernels that read no stored blocks.
    pub codec: &'static str,
}

const fn kernel(name: &'static str, frame: &'static str, codec: &'static str) -> Kernel {
    Kernel { name, frame, codec }
}

/// Every kernel.
pub const KERNELS: &[Kernel] = &[
    kernel("fused_int4_gemv", "gemv", "int4"),
    kernel("fused_int4_gemm", "gemm", "int4"),
    kernel("int4_rows", "rows", "int4"),
    kernel("int3_gemv", "gemv", "int3"),
    kernel("int3_gemm", "gemm", "int3"),
    kernel("int3_rows", "rows", "int3"),
    kernel("lut_int2_gemv", "gemv", "int2"),
    kernel("int2_gemm", "gemm", "int2"),
    kernel("int2_rows", "rows", "int2"),
    kernel("mxfp4_gemv", "gemv", "mxfp4"),
    kernel("mxfp4_gemm", "gemm", "mxfp4"),
    kernel("mxfp4_rows", "rows", "mxfp4"),
    kernel("hybrid_gemv", "gemv", "hybrid"),
    kernel("hybrid_gemm", "gemm", "hybrid"),
    kernel("hybrid_rows", "rows", "hybrid"),
    kernel("q8_gemv", "gemv", "q8"),
    kernel("q8_gemm", "gemm", "q8"),
    kernel("q8_rows", "rows", "q8"),
    kernel("raw_gemv", "gemv", "raw"),
    kernel("raw_gemm", "gemm", "raw"),
    kernel("raw_rows", "rows", "raw"),
    kernel("zip_gemv", "shares", "zip"),
    kernel("zip_gemm", "gemm", "zip"),
    kernel("zip_rows", "rows", "zip"),
    kernel("sqint2_gemv", "strips", "sqint2"),
    kernel("sqint2_gemm", "gemm", "sqint2"),
    kernel("sqint2_rows", "rows", "sqint2"),
    kernel("nf2_gemv", "gemv", "nf2"),
    kernel("nf2_gemm", "gemm", "nf2"),
    kernel("nf2_rows", "rows", "nf2"),
    kernel("astc_gemv", "strips", "astc"),
    kernel("astc_gemm", "gemm", "astc"),
    kernel("astc_rows", "rows", "astc"),
    // The gemv frame of any codec skips what is not listed; this is INT4's.
    kernel("sparse_gemv", "gemv", "int4"),
    kernel("active", "active", ""),
    kernel("prepare", "prepare", ""),
    kernel("halves", "halves", ""),
    kernel("rotate", "rotate", ""),
    kernel("norm", "norm", ""),
    kernel("rope", "rope", ""),
    kernel("attention", "attention", ""),
    kernel("attention_join", "attention_join", ""),
    kernel("gated", "gated", ""),
    kernel("softcap", "softcap", ""),
    kernel("route", "route", ""),
    kernel("combine", "combine", ""),
    kernel("argmax", "argmax", ""),
    kernel("top_k", "top_k", ""),
    kernel("read_ceiling", "read_ceiling", ""),
    kernel("copy_ceiling", "copy_ceiling", ""),
];
