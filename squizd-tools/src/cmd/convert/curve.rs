//! Where `--rd-curve` writes.

use crate::Failure;
use squizd::{
    codec::hybrid::{curves_to_csv, curves_to_svg},
    convert::TensorCurve,
    plan::Plan,
};
use squizd_spec::CodecId;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Rates of each curve.
pub(super) const POINTS: usize = 64;

/// The numbers and their picture.
pub(super) struct Files {
    csv: PathBuf,
    svg: PathBuf,
}

impl Files {
    /// The files to write, which nothing speaks against so far.
    ///
    /// # Errors
    /// If no tensor is stored as hybrid, or the files could not be written.
    pub(super) fn new(csv: &Path, target: &Path, plan: &Plan) -> Result<Self, Failure> {
        if !plan.tensors.iter().any(|t| t.codec == CodecId::HYBRID) {
            return Err(Failure::usage(
                "--rd-curve: no tensor is stored as hybrid, the codec that has such a curve: use --codec hybrid:RATE",
            ));
        }
        let svg = csv.with_extension("svg");
        if svg == csv || csv == target || svg == target {
            return Err(Failure::usage(format!(
                "--rd-curve: {} would be overwritten: name a .csv file",
                if svg == csv { csv } else { target }.display()
            )));
        }
        let folder = csv.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if csv.file_name().is_none() || csv.is_dir() || !folder.is_dir() {
            return Err(Failure::usage(format!(
                "--rd-curve: {} is no file in an existing folder",
                csv.display()
            )));
        }
        Ok(Self { csv: csv.to_owned(), svg })
    }

    /// Writes both.
    ///
    /// # Errors
    /// If that fails.
    pub(super) fn write(&self, curves: &[TensorCurve]) -> Result<(), Failure> {
        let curves: Vec<_> = curves.iter().map(|c| (c.name.as_str(), c.points.as_slice())).collect();
        for (path, text) in [(&self.csv, curves_to_csv(&curves)), (&self.svg, curves_to_svg(&curves))] {
            fs::write(path, text).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        }
        Ok(())
    }
}
