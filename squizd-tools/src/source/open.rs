//! Opening whatever the user named.

use super::{gguf::GgufFile, mapped::MappedFile, safetensors::SafetensorsStore, store::TensorStore};
use squizd::{Error, Result};
use std::{fs, path::Path};

/// A foreign container of either kind.
#[derive(Debug)]
pub enum Container {
    /// A GGUF file or all parts of a split one.
    Gguf(GgufFile),
    /// A safetensors file or all shards of a checkpoint.
    Safetensors(SafetensorsStore),
}

impl Container {
    /// Opens a folder (a Hugging Face checkpoint, or one that holds just one
    /// GGUF model), a `.gguf` or `.safetensors` file, or an index.
    ///
    /// # Errors
    /// Says what the path is where it is none of these.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = fs::metadata(path).map_err(Error::io(format!("opening {}", path.display())))?;
        if kind.is_dir() {
            return Self::open_dir(path);
        }
        if path.to_string_lossy().ends_with(".safetensors.index.json") {
            return SafetensorsStore::open_index(path).map(Self::Safetensors);
        }
        // By content too: Ollama's blobs have no extension.
        let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if named || MappedFile::open(path)?.contents()?.starts_with(b"GGUF") {
            return GgufFile::open(path).map(Self::Gguf);
        }
        SafetensorsStore::open_file(path).map(Self::Safetensors)
    }

    fn open_dir(dir: &Path) -> Result<Self> {
        let context = || format!("listing {}", dir.display());
        let mut models = Vec::new();
        for entry in fs::read_dir(dir).map_err(Error::io(context()))? {
            let path = entry.map_err(Error::io(context()))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("safetensors") => return SafetensorsStore::open_dir(dir).map(Self::Safetensors),
                Some("gguf") => models.push(path),
                _ => {}
            }
        }
        models.sort();
        let Some(first) = models.first() else {
            return SafetensorsStore::open_dir(dir).map(Self::Safetensors);
        };
        let file = GgufFile::open(first)?;
        if file.files().len() == models.len() {
            return Ok(Self::Gguf(file));
        }
        Err(Error::invalid(format!(
            "{} holds {} .gguf files of more than one model; name the one to convert",
            dir.display(),
            models.len()
        )))
    }

    /// Its tensors.
    pub fn store(&self) -> &dyn TensorStore {
        match self {
            Self::Gguf(file) => file,
            Self::Safetensors(store) => store,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixtures() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
    }

    #[test]
    fn containers_are_recognised() {
        let gguf = fixtures().join("gguf");
        assert!(matches!(Container::open(&gguf.join("all_types.gguf")), Ok(Container::Gguf(_))));
        let tiny = fixtures().join("tiny-qwen3-1m");
        for path in [tiny.clone(), tiny.join("model.safetensors")] {
            let open = Container::open(&path).unwrap();
            assert!(matches!(open, Container::Safetensors(_)));
            assert_eq!(open.store().tensors()[0].name, "model.embed_tokens.weight");
        }
        let dir = tempfile::tempdir().unwrap();
        for n in 1..=3 {
            let name = format!("split-0000{n}-of-00003.gguf");
            fs::copy(gguf.join(&name), dir.path().join(&name)).unwrap();
        }
        assert_eq!(Container::open(dir.path()).unwrap().store().files().len(), 3);
        let blob = dir.path().join("sha256-00ff");
        fs::copy(gguf.join("all_types.gguf"), &blob).unwrap();
        assert!(matches!(Container::open(&blob), Ok(Container::Gguf(_))));
        fs::copy(gguf.join("all_types.gguf"), dir.path().join("a.gguf")).unwrap();
        let two = Container::open(dir.path()).unwrap_err().to_string();
        assert!(two.contains("holds 4 .gguf files of more than one model"), "{two}");
    }
}
