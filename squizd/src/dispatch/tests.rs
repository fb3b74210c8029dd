use super::*;
use crate::codec::Precision;
use crate::simd::Level;

const CPU: Cpu = Cpu::at(Level::Avx512, Precision::Q8);

fn params(start: &[u8]) -> Params {
    let mut params = Params::default();
    params[..start.len()].copy_from_slice(start);
    params
}

fn chosen(codec: CodecId, params: &Params, stage: Stage) -> KernelChoice {
    let tensor = Subject { codec, params, matrix: Matrix { rows: 4, cols: 256 } };
    choose(&[&CPU], &tensor, stage).unwrap()
}

#[test]
fn kernels_are_named_by_codec_layout_instructions_and_method() {
    let fine = params(&[2, 16, 0, 6]);
    assert_eq!(chosen(CodecId::INT4, &fine, Stage::Decode).kernel, "int4-fine/avx512-vnni/matvec");
    let prefill = chosen(CodecId::INT4, &fine, Stage::Prefill);
    assert_eq!(prefill.kernel, "int4-fine/avx512/strip-bytes + gemm8/avx512-vnni");
    assert_eq!(prefill.fallback, None);
    let exact = Cpu::at(Level::Avx512, Precision::F32);
    let tensor = Subject { codec: CodecId::INT4, params: &fine, matrix: Matrix { rows: 4, cols: 256 } };
    let exact = choose(&[&exact], &tensor, Stage::Prefill).unwrap();
    assert_eq!(exact.kernel, "int4-fine/avx512/strip-decode + gemm/avx512");
    // Groups of 16 have no integers.
    let sixteen = chosen(CodecId::INT4, &params(&[0, 16]), Stage::Prefill);
    assert_eq!(sixteen.kernel, "int4-g16/avx512/strip-decode + gemm/avx512");
    let bf16 = chosen(CodecId::RAW_BF16, &params(&[]), Stage::Decode);
    assert_eq!((&*bf16.kernel, bf16.fallback), ("bf16/avx512/matvec", None));
}

#[test]
fn fallbacks_say_why() {
    let wide = chosen(CodecId::INT4, &params(&[0, 32, 1]), Stage::Decode);
    assert_eq!(wide.kernel, "int4-g32-f32/scalar/matvec");
    assert!(wide.fallback.unwrap().contains("f32 scales"));
    let kept = chosen(CodecId::ZPLANES, &params(&[1, CodecId::RAW_BF16.0 as u8]), Stage::Decode);
    assert_eq!(kept.kernel, "bf16/avx512/matvec");
    assert!(kept.fallback.unwrap().contains("unpacked to bf16 at load"));
}

/// A backend that knows one codec.
struct Only(CodecId);

impl Backend for Only {
    fn name(&self) -> &'static str {
        "vulkan"
    }

    fn kernel(&self, tensor: &Subject<'_>, stage: Stage) -> std::result::Result<KernelChoice, String> {
        if tensor.codec != self.0 {
            return Err("no shader for it".to_owned());
        }
        let kernel = "fused".to_owned();
        Ok(KernelChoice { stage, backend: "vulkan".into(), kernel, reason: String::new(), fallback: None })
    }
}

#[test]
fn the_first_backend_that_has_a_kernel_is_taken_and_the_others_say_why_not() {
    let gpu = Only(CodecId::INT4);
    let params = params(&[1, 32, 0, 32]);
    let tensor = |codec| Subject { codec, params: &params, matrix: Matrix { rows: 1, cols: 32 } };
    let choice = choose(&[&gpu, &CPU], &tensor(CodecId::INT4), Stage::Decode).unwrap();
    assert_eq!((&*choice.backend, choice.fallback), ("vulkan", None));
    let choice = choose(&[&gpu, &CPU], &tensor(CodecId::RAW_F32), Stage::Decode).unwrap();
    assert_eq!(&*choice.backend, "cpu");
    assert_eq!(choice.fallback.unwrap(), "not on vulkan: no shader for it");
    assert!(choose(&[&gpu], &tensor(CodecId::RAW_F32), Stage::Decode).unwrap_err().is_unsupported());
}
