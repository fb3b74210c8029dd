//! Products with strips in each of the ways that their tables are looked up.

use super::shares;
use super::tests::{Case, check_gemv, gpu, maths};
use crate::codec::{EncodeOptions, Quality, codec};
use squizd_spec::CodecId;

/// SQINT2 by quads where they fit (windows of 8 bits at 16, 17 and 18 eighths,
/// wide matrices), by pairs and one by one.
#[test]
fn every_look_up_of_a_trellis_agrees_with_the_decoder() {
    let Some(gpu) = gpu() else { return };
    let rate = |r, q| EncodeOptions { rate: Some(r), quality: Some(q), ..EncodeOptions::NONE };
    let cases = [
        (rate(2000, Quality::Fast), 2048, "QUADS"),
        (rate(2125, Quality::Fast), 2304, "QUADS"),
        (rate(2250, Quality::Fast), 2050, "QUADS"),
        (rate(2125, Quality::Fast), 2047, "PAIRS"),
        (rate(2500, Quality::Fast), 2304, "PAIRS"),
        (rate(2375, Quality::Fast), 300, "SPAN"),
        (rate(2125, Quality::Max), 2304, "ODD"),
    ];
    for (options, cols, wanted) in cases {
        let case = Case::new(codec(CodecId::SQINT2).unwrap(), 37, cols, 1.0, options);
        let matrix = case.load(gpu);
        let flags = &matrix.recipe().options.flags;
        let by = ["ODD", "QUADS", "PAIRS"].into_iter().find(|f| flags.contains(f)).unwrap_or("SPAN");
        assert_eq!(by, wanted, "{options:?}");
        for math in maths(CodecId::SQINT2) {
            check_gemv(gpu, &case, math, None);
            // Few shapes: each is compiled anew.
            let shapes = shares::candidates(matrix.recipe());
            for tuning in shapes.into_iter().filter(|t| t.workgroup >= 256 && t.lanes * 4 == t.workgroup) {
                check_gemv(gpu, &case, math, Some(tuning));
            }
        }
    }
}

/// The shape of workgroups that large matrices get.
#[test]
fn large_tables_are_shared_by_strips() {
    let Some(gpu) = gpu() else { return };
    let fast = EncodeOptions { quality: Some(Quality::Fast), ..EncodeOptions::NONE };
    let case = Case::new(codec(CodecId::SQINT2).unwrap(), 16, 2048, 1.0, fast);
    let matrix = case.load(gpu);
    let large = shares::tuning(matrix.recipe(), 8192, 512).unwrap();
    assert_eq!(large.workgroup, gpu.abilities().max_workgroup.min(512));
    assert_eq!(large.workgroup / large.lanes, 4);
    let small = shares::tuning(matrix.recipe(), 512, 512).unwrap();
    assert_eq!(small.workgroup, small.lanes);
}
