//! What kernels are assembled with: flags and constants of every kernel.

use crate::Options;

/// A codec's kernels by their frames, its unit, the flags of its layouts, and
/// the forms of input besides f32.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// Product with one vector.
    pub gemv: &'static str,
    /// Product with many.
    pub gemm: &'static str,
    /// Rows by number.
    pub rows: &'static str,
    /// Columns of a unit.
    pub unit: u32,
    /// Flags of each layout.
    pub layouts: &'static [&'static [&'static str]],
    /// Forms of the input besides f32.
    pub forms: &'static [&'static str],
}

/// Constants that some codecs' files ask for.
const CODED: &[(&str, u32)] = &[
    ("CLUSTER", 32),
    ("SHARE", 32),
    ("HEIGHT", 16),
    ("RATE", 17),
    ("SPAN", 10),
    ("QUAD", 14),
    ("STREAM", 5),
    ("SIZE", 8),
];

/// Products whose input every workgroup can make.
const UNITS: &[&str] = &[
    "fused_int4_gemv",
    "int3_gemv",
    "lut_int2_gemv",
    "mxfp4_gemv",
    "hybrid_gemv",
    "q8_gemv",
    "raw_gemv",
    "zip_gemv",
];

const FORMS: &[&str] = &["F16", "I8", "I24"];

/// Layouts of the integer codecs.
const INTEGER: &[&[&str]] = &[
    &["SCALED"],
    &["SCALED", "ALIGNED", "HEADS"],
    &["SCALED", "FINE", "HALVES"],
    &["SCALED", "FINE", "HALVES", "ALIGNED", "HEADS"],
    &["SCALED", "PLAIN"],
    &["SCALED", "PLAIN", "HALVES"],
    &["SCALED", "PLAIN", "WIDE"],
    &["SCALED", "PLAIN", "HALVES", "WIDE"],
];

/// Every codec's.
pub const CODECS: &[Codec] = &[
    Codec {
        gemv: "zip_gemv",
        gemm: "zip_gemm",
        rows: "zip_rows",
        unit: 8,
        layouts: &[&[], &["ALIGNED", "PREFIX"]],
        forms: &[],
    },
    Codec {
        gemv: "sqint2_gemv",
        gemm: "sqint2_gemm",
        rows: "sqint2_rows",
        unit: 8,
        layouts: &[
            &[],
            &["WIDE"],
            &["WHOLE", "PAIRS"],
            &["ODD"],
            &["PAIRS", "QUADS", "OVER_TABLE"],
            &["PAIRS", "TRIPLES", "OVER_TABLE"],
        ],
        forms: FORMS,
    },
    Codec {
        gemv: "nf2_gemv",
        gemm: "nf2_gemm",
        rows: "nf2_rows",
        unit: 8,
        layouts: &[&[], &["WIDE"]],
        forms: &[],
    },
    Codec {
        gemv: "astc_gemv",
        gemm: "astc_gemm",
        rows: "astc_rows",
        unit: 8,
        layouts: &[
            &[],
            &["COLUMNS"],
            &["OFTEN"],
            &["OFTEN", "COLUMNS"],
            &["TEXTURE"],
            &["TEXTURE", "COLUMNS"],
        ],
        forms: &[],
    },
    Codec {
        gemv: "fused_int4_gemv",
        gemm: "fused_int4_gemm",
        rows: "int4_rows",
        unit: 32,
        layouts: INTEGER,
        forms: FORMS,
    },
    Codec {
        gemv: "int3_gemv",
        gemm: "int3_gemm",
        rows: "int3_rows",
        unit: 32,
        layouts: INTEGER,
        forms: FORMS,
    },
    Codec {
        gemv: "lut_int2_gemv",
        gemm: "int2_gemm",
        rows: "int2_rows",
        unit: 32,
        layouts: INTEGER,
        forms: FORMS,
    },
    Codec {
        gemv: "mxfp4_gemv",
        gemm: "mxfp4_gemm",
        rows: "mxfp4_rows",
        unit: 32,
        layouts: &[&[]],
        forms: FORMS,
    },
    Codec {
        gemv: "hybrid_gemv",
        gemm: "hybrid_gemm",
        rows: "hybrid_rows",
        unit: 32,
        layouts: &[&[], &["STRIPS"]],
        forms: FORMS,
    },
    Codec {
        gemv: "q8_gemv",
        gemm: "q8_gemm",
        rows: "q8_rows",
        unit: 32,
        layouts: &[&[], &["WIDE"]],
        forms: FORMS,
    },
    Codec {
        gemv: "raw_gemv",
        gemm: "raw_gemm",
        rows: "raw_rows",
        unit: 8,
        layouts: &[
            &[],
            &["HALF"],
            &["BRAIN"],
            &["BYTE"],
            &["ALIGNED"],
            &["ALIGNED", "HALF"],
            &["ALIGNED", "BRAIN"],
            &["ALIGNED", "BYTE"],
        ],
        forms: &[],
    },
];

fn flags(options: Options, flags: &[&'static str]) -> Options {
    flags.iter().fold(options, |o, f| o.flag(f))
}

/// A product of batches by cooperative matrices of `side`, four by four of them
/// for each of four subgroups.
fn cooperative(options: Options, side: u32) -> Options {
    let vectors = options.constant("VECTORS").unwrap_or(1);
    let (depth, threads) = (32, 128);
    let options = options.with("FRAGS_R", 4).with("FRAGS_T", 4).with("WARPS_R", 2).with("WARPS_T", 2);
    let options = options
        .with("DEPTH", depth)
        .with("TURNS", depth / side)
        .with("UNITS", (8 * side * depth / (4 * vectors)).div_ceil(threads))
        .with("X_QUADS", 8 * side * depth / 4 / threads)
        .flag("COOP");
    if side == 8 { options.flag("EIGHT") } else { options }
}

/// Flags of the kernels that are no codec's.
const OTHERS: &[(&str, &[&[&str]])] = &[
    (
        "rotate",
        &[
            &["MAIN"],
            &["MAIN", "TAIL", "ODD"],
            &["TAIL", "IN_PLACE"],
            &["INVERSE", "MAIN", "IN_PLACE"],
            &["INVERSE", "MAIN", "TAIL", "IN_PLACE"],
            &["INVERSE", "TAIL", "IN_PLACE"],
            &["MAIN", "EMIT", "I8"],
            &["MAIN", "TAIL", "EMIT", "I24"],
            &["MAIN", "EMIT", "HALVES_OUT"],
            &["MAIN", "NORMED"],
            &["MAIN", "TAIL", "NORMED", "EMIT", "I8"],
            &["MAIN", "GATED"],
            &["MAIN", "TAIL", "GATED", "SILU", "EMIT", "I24"],
        ],
    ),
    ("halves", &[&[]]),
    ("prepare", &[&[], &["I8"], &["I24"], &["HALVES_OUT"]]),
    ("norm", &[&[], &["ONTO"], &["EMIT"], &["EMIT", "I8"], &["EMIT", "I24"], &["EMIT", "HALVES_OUT"]]),
    ("gated", &[&[], &["SILU"], &["GELU_TANH"], &["SILU", "EMIT", "I8"], &["EMIT", "HALVES_OUT"]]),
    ("rope", &[&[], &["KV_HALVES"], &["ROPE"], &["QK_NORM", "ROPE", "KV_HALVES"]]),
    (
        "attention",
        &[
            &[],
            &["KV_HALVES"],
            &["CAP"],
            &["SHUFFLE", "WHOLE"],
            &["EMIT", "I8"],
            &["EMIT", "HALVES_OUT"],
            &["OWN", "SPLIT"],
            &["OWN", "ROPE", "QK_NORM", "KV_HALVES", "WHOLE", "SHUFFLE", "EMIT", "I8"],
        ],
    ),
    ("attention_join", &[&[], &["EMIT", "I8"], &["EMIT", "HALVES_OUT"]]),
    ("active", &[&[]]),
    ("route", &[&[], &["NORMALIZE"]]),
    ("softcap", &[&[]]),
    ("argmax", &[&[], &["FIRST"], &["SECOND"]]),
    ("combine", &[&[]]),
    ("read_ceiling", &[&[]]),
    ("copy_ceiling", &[&[]]),
];

/// Every kernel with each set of options that is of use; sizes stand for any.
pub fn cases() -> Vec<(&'static str, Options)> {
    let mut all = Vec::new();
    for codec in CODECS {
        for layout in codec.layouts {
            let base = Options::default().with("VECTORS", codec.unit / 4).with("GROUP", 32).with("BYTES", 2);
            let base = CODED.iter().fold(base, |base, (name, value)| base.with(name, *value));
            let zip = codec.gemv == "zip_gemv";
            let base = if zip { base.with("CLUSTER", 16).with("SHARE", 64) } else { base };
            let base = flags(base, layout);
            let rows = base.clone().with("WG", 64).flag("WEIGHTS");
            all.push((codec.rows, rows.clone()));
            all.push((codec.rows, rows.flag("PEAK")));
            // Those of bit planes take words of them in batches.
            let batch = match codec.gemm {
                "zip_gemm" => base.clone().with("VECTORS", 8).flag("WORDS_OF_PLANES"),
                _ => base.clone(),
            };
            for out in [&[][..], &["BIAS", "ACCUMULATE"]] {
                let options = flags(batch.clone().flag("WEIGHTS"), out);
                for side in [16, 8] {
                    let by_matrices = cooperative(options.clone(), side);
                    if options.flags.contains(&"SCALED") {
                        all.push((codec.gemm, by_matrices.clone().flag("F16")));
                    }
                    all.push((codec.gemm, by_matrices));
                }
                all.push((codec.gemm, options));
            }
            let lanes = if zip { 32 } else { 8 };
            let shaped = base.with("WG", 64).with("LANES", lanes).with("ROWS", 4).with("UNROLL", 2);
            let shaped = if codec.unit == 32 { shaped.flag("BLOCKS").flag("TILED") } else { shaped };
            for form in std::iter::once(None).chain(codec.forms.iter().map(Some)) {
                // Threes are looked up for bytes only.
                if layout.contains(&"TRIPLES") && form != Some(&"I8") {
                    continue;
                }
                for sums in [&[][..], &["SUBGROUP"], &["SUBGROUP", "SHUFFLE"], &["SUBGROUP", "FOLD"]] {
                    // Strips of sixteen rows are folded.
                    if sums.contains(&"FOLD") && codec.gemv != "sqint2_gemv" {
                        continue;
                    }
                    for out in [
                        &[][..],
                        &["BIAS", "ACCUMULATE"],
                        &["EXPERTS"],
                        &["JOINED"],
                        &["JOINED", "BIAS"],
                        &["NEIGHBOURS"],
                        &["LISTED_ROWS"],
                        &["LISTED_UNITS"],
                        &["STAGED", "NORMED", "ALONE", "JOINED", "BIAS"],
                        &["STAGED", "GATED", "SILU", "ACCUMULATE"],
                    ] {
                        // Lanes of other frames take no units.
                        if out.contains(&"STAGED") && !UNITS.contains(&codec.gemv) {
                            continue;
                        }
                        let options = flags(flags(shaped.clone(), sums), out);
                        let mut options = form.iter().fold(options, |o, f| o.flag(f));
                        if out.contains(&"JOINED") {
                            options = options.with("PARTS", 3);
                        }
                        if out.contains(&"STAGED") {
                            options = options.with("SPAN", 17);
                        }
                        if codec.gemv == "fused_int4_gemv" && out.iter().any(|f| f.starts_with("LISTED")) {
                            all.push(("sparse_gemv", options.clone()));
                        }
                        all.push((codec.gemv, options));
                    }
                }
            }
        }
    }
    let base = Options::default().with("WG", 64).with("DIM", 64).with("QUADS", 16).with("EXPERTS", 8);
    // Of attention: four invocations share a key, and have four of them under way.
    let base = base.with("HEADS", 1).with("LANES", 4).with("CHUNK", 4).with("UNROLL", 4).with("RUNS", 16);
    let base = base.with("LOG", 5).with("BLOCK", 32).with("SPACE", 4096);
    let top = Options::default().with("WG", 256).with("KEPT", 40);
    all.extend([top.clone().flag("FIRST"), top].map(|options| ("top_k", options)));
    for (name, sets) in OTHERS {
        all.extend(sets.iter().map(|set| (*name, flags(base.clone(), set))));
    }
    all
}
