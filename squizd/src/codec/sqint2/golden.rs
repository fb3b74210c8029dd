//! Payloads assembled from the written specification, tables included, by a
//! script that shares no code with this one: they decode to the very weights
//! listed beside them.

use super::*;
use crate::codec::Precision;
use crate::codec::testing::golden;
use crate::simd;

fn check(payload: &[u8], about: &str) {
    let (matrix, params, bytes) = golden(about, "f32");
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let stored = Encoded { name: "golden", matrix, params: &params, data: payload };
    assert_eq!(CODEC.check(&stored), Ok(()));
    assert_eq!(Form::of(&params).params(), params);
    let x: Vec<f32> = (0..matrix.cols).map(|j| (j as f32 * 0.7).sin()).collect();
    for level in simd::Level::supported() {
        simd::force(level).unwrap();
        let mut out = vec![f32::NAN; values.len()];
        CODEC.decode(&stored, 0..matrix.rows, &mut out).unwrap();
        for (i, (o, v)) in out.iter().zip(&values).enumerate() {
            // A zero's sign is the sum's, which no rule fixes.
            assert!(
                o.to_bits() == v.to_bits() || (*o == 0.0 && *v == 0.0),
                "{level} weight {i}: {o:e} {v:e}"
            );
        }
        let mut y = vec![0.0; matrix.rows as usize];
        CODEC.matvec(&stored, &Activation::new(&x, Precision::F32), 0..matrix.rows, &mut y);
        for (row, y) in values.chunks(x.len()).zip(&y) {
            let products = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            assert!((f64::from(*y) - sum).abs() <= 1e-5 * size, "{level}: {y} {sum}");
        }
    }
}

macro_rules! golden {
    ($test:ident, $name:literal) => {
        #[test]
        fn $test() {
            check(
                include_bytes!(concat!("../../../../fixtures/golden/v1/", $name, ".bin")),
                include_str!(concat!("../../../../fixtures/golden/v1/", $name, ".json")),
            );
        }
    };
}

golden!(windows_of_8_with_a_tail_block_are_the_written_layout, "sqint2-l8");
golden!(windows_of_10_with_f32_scales_are_the_written_layout, "sqint2-l10");
golden!(windows_of_12_with_tiny_scales_are_the_written_layout, "sqint2-l12");
golden!(nf2_is_the_written_layout, "sqint2-nf2");

#[test]
fn the_specification_lists_these_tables() {
    let spec = include_str!("../../../../docs/squizd_format_spec.md");
    for id in 0..3 {
        for line in table::table(8, id)[..128].chunks(32) {
            let digits: Vec<_> = line.iter().map(|v| format!("{:02x}", v.cast_unsigned())).collect();
            let line = digits.concat();
            assert!(spec.contains(&format!("\n{line}\n")), "table {id}: {line}");
        }
    }
    for (window, multipliers) in table::MULTIPLIERS {
        let [a, b, c] = multipliers;
        let row = format!("\n| {window} | `{a:08x}` | `{b:08x}` | `{c:08x}` |\n");
        assert!(spec.contains(&row), "{row}");
    }
}
