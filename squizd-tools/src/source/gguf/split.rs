//! Split models: `NAME-00001-of-00003.gguf` and its siblings.
//!
//! Each part is a GGUF file with the keys `split.no` (from 0), `split.count`
//! and `split.tensors.count`; the first also holds all other metadata.

use super::value::GgufMetadata;
use squizd::{Error, Result};
use std::path::{Path, PathBuf};

/// The name of one part, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartName {
    /// Path up to the number, without the dash.
    stem: String,
    folder: PathBuf,
    /// From 0.
    pub(super) number: u32,
    pub(super) count: u32,
}

impl PartName {
    /// `None` for a name that is not `STEM-ddddd-of-ddddd.gguf` with a number
    /// from 1 to the count.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five_digits =
            |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok())?;
        let (number, count): (u32, u32) = (five_digits(number)?, five_digits(count)?);
        let number = number.checked_sub(1).filter(|n| *n < count)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Some(Self { stem: stem.to_owned(), folder, number, count })
    }

    /// Path of part `number` (from 0).
    pub(super) fn sibling(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{}-{:05}-of-{:05}.gguf", self.stem, number + 1, self.count))
    }
}

/// `split.count` of a part, 1 for a file that is not split.
pub(super) fn declared_count(metadata: &GgufMetadata) -> Result<u64> {
    Ok(metadata.u64("split.count")?.unwrap_or(1).max(1))
}

/// Checks that part `number` says it is that part of `count`, and says nothing
/// that contradicts the first part.
pub(super) fn check_part(
    part: &GgufMetadata,
    path: &Path,
    number: u32,
    count: u32,
    first: Option<&GgufMetadata>,
) -> Result<()> {
    if part.u64("split.count")? != Some(u64::from(count)) {
        return Err(part.mismatch("split.count", &format!("{count}, as the file's name says")));
    }
    if part.u64("split.no")? != Some(u64::from(number)) {
        return Err(part.mismatch("split.no", &format!("{number} (counted from 0), as the file's name says")));
    }
    let Some(first) = first else { return Ok(()) };
    for (key, value) in part.iter().filter(|(key, _)| !matches!(*key, "split.no" | "general.alignment")) {
        match first.get(key) {
            Some(v) if v == value => {}
            Some(v) => return Err(part.mismatch(key, &format!("{}, as in the first part", v.describe()))),
            None => {
                return Err(Error::refused(
                    "gguf-split",
                    format!(
                        "{}: metadata key `{key}` is not in the first part; do all parts belong to one model?",
                        path.display()
                    ),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names() {
        let p = PartName::of(Path::new("/m/x-Q4_K-00002-of-00003.gguf")).unwrap();
        assert_eq!((p.number, p.count), (1, 3));
        assert_eq!(p.sibling(2), Path::new("/m/x-Q4_K-00003-of-00003.gguf"));
        for name in [
            "x.gguf",
            "x-00000-of-00003.gguf",
            "x-00004-of-00003.gguf",
            "x-1-of-3.gguf",
            "x-00001-of-00003.bin",
        ] {
            assert_eq!(PartName::of(Path::new(name)), None, "{name}");
        }
    }
}
