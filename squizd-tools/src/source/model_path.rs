//! Opening whatever a path names as a model.

use super::{
    arch::MappingOptions, gguf_model, hf_model, model_source::ModelSource, safetensors::SafetensorsStore,
};
use squizd::{Error, Result};
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// Opens a model: a Hugging Face directory, a GGUF file (any part of a split
/// one) or a directory holding one, or a `.safetensors` file with its
/// `config.json` beside it.
///
/// # Errors
/// Says what the path is and what is missing, for anything else.
pub fn open(path: &Path, options: MappingOptions) -> Result<ModelSource> {
    let meta = std::fs::metadata(path).map_err(Error::io(format!("opening {}", path.display())))?;
    if meta.is_dir() {
        return open_dir(path, options);
    }
    if !meta.is_file() {
        return Err(Error::refused(
            "source-kind",
            format!(
                "{} is neither a regular file nor a directory (a pipe, socket or device)",
                path.display()
            ),
        ));
    }
    if is_index(path) {
        return open_safetensors(path, options);
    }
    match sniff(path)? {
        Kind::Gguf => gguf_model::open(path, options),
        Kind::Safetensors => open_safetensors(path, options),
    }
}

enum Kind {
    Gguf,
    Safetensors,
}

/// Recognises a file by its first bytes; the name only helps the message.
fn sniff(path: &Path) -> Result<Kind> {
    let shown = path.display();
    let context = || format!("reading {shown}");
    let mut head = Vec::with_capacity(10);
    let file = File::open(path).map_err(Error::io(context()))?;
    file.take(10).read_to_end(&mut head).map_err(Error::io(context()))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let is_safetensors = head.get(8) == Some(&b'{') && head.get(4..8) == Some(&[0; 4]);
    match head.as_slice() {
        [] => Err(Error::refused("source-empty", format!("{shown} is empty"))),
        [b'G', b'G', b'U', b'F', ..] => Ok(Kind::Gguf),
        [b'S', b'Q', b'Z', b'D', ..] => Err(Error::refused(
            "source-squizd",
            format!("{shown} is a .squizd file already; convert from the original checkpoint"),
        )),
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Err(pickle(path)),
        [b'g', b'g', b'm' | b'j', ..] | [b'l', b'm', b'g', b'g', ..] | [b't', b'j', b'g', b'g', ..] => {
            Err(Error::refused_unsupported(
                "gguf-lineage",
                format!("{shown} is a ggml file from before GGUF; convert it to GGUF first"),
            ))
        }
        [0x89, b'H', b'D', b'F', ..] => Err(Error::refused_unsupported(
            "source-format",
            format!("{shown} is an HDF5 (Keras) file; safetensors and GGUF are read"),
        )),
        _ if is_safetensors || extension == "safetensors" => Ok(Kind::Safetensors),
        _ if extension == "gguf" => Err(Error::refused(
            "gguf-magic",
            format!("{shown} does not begin with GGUF: its download is damaged, or it is a Git LFS pointer"),
        )),
        _ if matches!(extension.as_str(), "bin" | "pt" | "pth" | "ckpt" | "pkl") => Err(pickle(path)),
        _ => Err(Error::refused_unsupported(
            "source-format",
            format!(
                "{shown} is of no known kind; a model is a directory with config.json and safetensors, a .gguf file, or a .safetensors file beside its config.json"
            ),
        )),
    }
}

fn pickle(path: &Path) -> Error {
    Error::refused_unsupported(
        "source-pickle",
        format!(
            "{} is a PyTorch pickle, which can run code when it is loaded; it is never opened here. Take the safetensors version of the model",
            path.display()
        ),
    )
}

fn open_safetensors(path: &Path, options: MappingOptions) -> Result<ModelSource> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if !dir.join("config.json").exists() {
        return Err(Error::refused(
            "source-no-config",
            format!(
                "{} has no config.json beside it; a checkpoint's weights alone do not say what model they are",
                path.display()
            ),
        ));
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let store = if is_index(path) {
        SafetensorsStore::open_index(path)?
    } else if is_shard(name) {
        SafetensorsStore::open_dir(dir)?
    } else {
        SafetensorsStore::open_file(path)?
    };
    hf_model::open(dir, Box::new(store), "safetensors", options)
}

/// `model.safetensors.index.json`.
fn is_index(path: &Path) -> bool {
    path.to_str().is_some_and(|p| p.ends_with(".safetensors.index.json"))
}

/// `model-00002-of-00005.safetensors`.
fn is_shard(name: &str) -> bool {
    let stem = name.strip_suffix(".safetensors").unwrap_or(name);
    let mut parts = stem.rsplit('-');
    let digits = |p: Option<&str>| p.is_some_and(|p| p.len() == 5 && p.bytes().all(|b| b.is_ascii_digit()));
    digits(parts.next()) && parts.next() == Some("of") && digits(parts.next())
}

fn open_dir(dir: &Path, options: MappingOptions) -> Result<ModelSource> {
    let names = file_names(dir)?;
    let with = |suffix: &str| names.iter().filter(|n| n.ends_with(suffix)).collect::<Vec<_>>();
    let weights = with(".safetensors");
    if names.contains("config.json") && !weights.is_empty() {
        return hf_model::open(dir, Box::new(SafetensorsStore::open_dir(dir)?), "hf", options);
    }
    let ggufs = with(".gguf");
    if let Some(path) = single_gguf(dir, &ggufs)? {
        return gguf_model::open(&path, options);
    }
    let is_pickle = |n: &&String| {
        let extension = Path::new(n.as_str()).extension().and_then(|e| e.to_str()).unwrap_or_default();
        n.starts_with("pytorch_model") || matches!(extension, "pth" | "pt" | "ckpt")
    };
    let pickles: Vec<&String> = names.iter().filter(is_pickle).collect();
    if let Some(first) = pickles.first() {
        return Err(pickle(&dir.join(first)));
    }
    Err(Error::refused(
        "source-none",
        if names.contains("adapter_config.json") {
            format!("{} holds a LoRA adapter; merge it into its base model first", dir.display())
        } else if names.contains("config.json") {
            format!("{} has a config.json but no .safetensors weights", dir.display())
        } else if !weights.is_empty() {
            format!("{} has safetensors but no config.json, which says what model they are", dir.display())
        } else {
            format!("{} holds no model: no config.json, no safetensors, no GGUF", dir.display())
        },
    ))
}

/// The one GGUF model among `names` (vision projectors aside): a file or the
/// first part of a split set.
fn single_gguf(dir: &Path, names: &[&String]) -> Result<Option<PathBuf>> {
    let is_model = |n: &&&String| !n.to_ascii_lowercase().starts_with("mmproj");
    let models: Vec<&String> = names.iter().filter(is_model).copied().collect();
    // All parts of one split share what precedes `-00001-of-00003`.
    let stem = |n: &str| match n.strip_suffix(".gguf") {
        Some(s) if is_shard(s) => s.get(..s.len().saturating_sub(15)).unwrap_or(s).to_owned(),
        other => other.unwrap_or(n).to_owned(),
    };
    let stems: BTreeSet<String> = models.iter().map(|n| stem(n)).collect();
    match (models.first(), stems.len()) {
        (None, _) => Ok(None),
        (Some(first), 1) => Ok(Some(dir.join(first))),
        (Some(_), count) => Err(Error::refused(
            "source-ambiguous",
            format!(
                "{} holds {count} GGUF models; name one of {}",
                dir.display(),
                super::arch::some_of(&models)
            ),
        )),
    }
}

fn file_names(dir: &Path) -> Result<BTreeSet<String>> {
    let context = || format!("listing {}", dir.display());
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(context()))? {
        let entry = entry.map_err(Error::io(context()))?;
        if let Some(name) = entry.file_name().to_str() {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        match open(path, MappingOptions::default()) {
            Ok(_) => panic!("{} was accepted", path.display()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn what_is_no_model_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        assert!(refused(&file("a.bin", b"\x80\x02}q\x00")).contains("pickle"));
        assert!(refused(&file("b.zip", b"PK\x03\x04....")).contains("pickle"));
        assert!(refused(&file("c.squizd", b"SQZD....")).contains("already"));
        assert!(refused(&file("d.gguf", b"version https://git-lfs")).contains("Git LFS"));
        assert!(refused(&file("e.txt", b"hello, world")).contains("no known kind"));
        assert!(refused(&file("f.gguf", b"")).contains("empty"));
        assert!(refused(&dir.path().join("missing")).contains("opening"));
        assert!(refused(Path::new("/dev/null")).contains("device"));
        let safetensors = file("w.safetensors", b"\x02\0\0\0\0\0\0\0{}");
        assert!(refused(&safetensors).contains("no config.json beside it"));
    }

    #[test]
    fn directories_say_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(refused(path).contains("holds no model"));
        std::fs::write(path.join("config.json"), "{}").unwrap();
        assert!(refused(path).contains("no .safetensors weights"));
        std::fs::write(path.join("pytorch_model.bin"), "x").unwrap();
        assert!(refused(path).contains("pickle"));
        for name in ["a.gguf", "b.gguf", "mmproj-x.gguf"] {
            std::fs::write(path.join(name), "x").unwrap();
        }
        assert!(refused(path).contains("holds 2 GGUF models; name one of a.gguf, b.gguf"));
    }

    #[test]
    fn split_sets_are_one_model() {
        let names: Vec<String> = (1..=3).map(|i| format!("m-q4-0000{i}-of-00003.gguf")).collect();
        let found = single_gguf(Path::new("d"), &names.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(found, Some(PathBuf::from("d/m-q4-00001-of-00003.gguf")));
        assert!(is_shard("model-00002-of-00005.safetensors") && !is_shard("model.safetensors"));
    }
}
