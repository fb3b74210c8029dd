//! Models held in memory.

use super::*;
use crate::Error;
use crate::codec::testing::gaussian;
use crate::runtime::family_tests::{Case, key, values};
use crate::runtime::testing::{MemoryTensor, MemoryWeights};
use squizd_spec::{CodecId, canonical_name};

/// Tensors of f32 values under their canonical names.
pub(crate) struct MemorySource {
    pub(crate) model: ModelConfig,
    pub(crate) infos: Vec<TensorInfo>,
    pub(crate) values: Vec<Vec<f32>>,
    files: BTreeMap<String, Vec<u8>>,
    texts: BTreeMap<String, String>,
    provenance: SourceProvenance,
}

impl MemorySource {
    /// No tensors yet; `config` overrides fields of a small Qwen3.
    pub(crate) fn new(config: serde_json::Value) -> Self {
        let mut fields = serde_json::json!({
            "family": "qwen3", "hidden_size": 64, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2,
            "head_dim": 16, "ffn_size": 96, "vocab_size": 50, "max_positions": 64, "norm_eps": 1e-6,
            "activation": "silu", "tie_embeddings": true, "rope": { "theta": 1e4, "dim": 16 }, "tokens": {},
        });
        for (key, value) in config.as_object().unwrap() {
            fields[key] = value.clone();
        }
        Self {
            model: serde_json::from_value(fields).unwrap(),
            infos: Vec::new(),
            values: Vec::new(),
            files: BTreeMap::new(),
            texts: BTreeMap::new(),
            provenance: SourceProvenance::default(),
        }
    }

    /// Adds a weight with these values.
    pub(crate) fn add(&mut self, role: Role, layer: Option<u16>, dims: &[u64], values: Vec<f32>) {
        assert_eq!(dims.iter().product::<u64>(), values.len() as u64);
        self.infos.push(TensorInfo {
            name: canonical_name(role, layer, Part::WEIGHT),
            source_name: format!("source of {role}"),
            role,
            layer,
            part: Part::WEIGHT,
            experts: if dims.len() == 3 { dims[0] as u16 } else { 0 },
            dtype: DType::F32,
            dims: dims.to_vec(),
        });
        self.values.push(values);
    }

    /// Adds Gaussian weights of deviation 1/8.
    pub(crate) fn add_gaussian(&mut self, role: Role, layer: Option<u16>, dims: &[u64]) {
        let seed = 1 + self.infos.len() as u64;
        let values = gaussian(dims.iter().product::<u64>() as usize, seed);
        self.add(role, layer, dims, values.into_iter().map(|v| v / 8.0).collect());
    }

    /// A family's test model, weights and biases.
    pub(crate) fn of_case(case: &Case) -> Self {
        let mut source = Self::new(serde_json::json!({}));
        source.model = case.model.clone();
        for (name, dims) in &case.tensors {
            let (role, layer, part) = key(name);
            source.add(role, layer, dims, values(name, dims.iter().product()).collect());
            if let Some(info) = source.infos.last_mut() {
                (info.name, info.part) = (name.clone(), part);
            }
        }
        source
    }

    /// All of a source's tensors, as the runtime takes them.
    pub(crate) fn weights(source: &dyn TensorSource) -> MemoryWeights {
        let mut weights = MemoryWeights::default();
        for (index, info) in source.tensors().iter().enumerate() {
            let mut values = vec![0.0; info.elements() as usize];
            source.read_f32(index, 0..info.rows(), &mut values).unwrap();
            let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
            let tensor = MemoryTensor::raw(&info.name, info.dims.clone(), CodecId::RAW_F32, bytes);
            weights.tensors.insert((info.role, info.layer, info.part), tensor);
        }
        weights
    }

    /// All of a tensor's values.
    pub(crate) fn values_of(source: &dyn TensorSource, name: &str) -> Vec<f32> {
        let index = source.tensors().iter().position(|t| t.name == name).unwrap();
        let info = &source.tensors()[index];
        let mut values = vec![0.0; info.elements() as usize];
        source.read_f32(index, 0..info.rows(), &mut values).unwrap();
        values
    }
}

impl TensorSource for MemorySource {
    fn model(&self) -> &ModelConfig {
        &self.model
    }
    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }
    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let (info, values) =
            self.infos.get(index).zip(self.values.get(index)).ok_or_else(|| Error::invalid("index"))?;
        let cols = info.cols();
        out.copy_from_slice(&values[(rows.start * cols) as usize..(rows.end * cols) as usize]);
        Ok(())
    }
    fn read_native(&self, _: usize, _: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }
    fn tokenizer_files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }
    fn chat_template(&self) -> Option<&str> {
        None
    }
    fn source_files(&self) -> &BTreeMap<String, String> {
        &self.texts
    }
    fn provenance(&self) -> &SourceProvenance {
        &self.provenance
    }
}
