//! Where a model is computed: `--backend`.

#[cfg(feature = "gpu")]
use super::progress;
use super::{Common, kernels, model::Opened};
use crate::Failure;
use squizd::codec::Precision;
use squizd::dispatch::{Cpu, KernelGroup};
#[cfg(feature = "gpu")]
use squizd::gpu::{Gpu, GpuKernels, GpuModel, Math, hardware_likely};
use squizd::runtime::{Model, Sequences};
use squizd_spec::FileBytes;

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Backend {
    /// The CPU
    Cpu,
    /// The GPU, or an error
    Gpu,
    /// The GPU where there is a real one and the model has kernels for it
    Auto,
}

/// The option of commands that run a model.
#[derive(Clone, Copy, clap::Args)]
pub(super) struct BackendArgs {
    /// Where to compute; SQUIZD_ADAPTER picks a GPU by a part of its name
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
}

/// A model with its weights where they are to be computed with.
pub(super) enum Placed<'m, 'w> {
    Cpu(&'m Model<'w>),
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuModel<'m, 'w>>),
}

impl Placed<'_, '_> {
    /// `cpu`, or the adapter's name and backend.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Cpu(_) => "cpu".to_owned(),
            #[cfg(feature = "gpu")]
            Self::Gpu(model) => {
                let adapter = model.gpu().adapter();
                format!("{} ({})", adapter.name, adapter.backend)
            }
        }
    }

    /// What begins sequences.
    pub(super) fn sequences(&self) -> &dyn Sequences {
        match self {
            Self::Cpu(model) => *model,
            #[cfg(feature = "gpu")]
            Self::Gpu(model) => &**model,
        }
    }
}

impl BackendArgs {
    /// Brings the weights of `model`, which lie in `file`, to where `--backend`
    /// says. On the GPU one-token products read inputs as `precision` says.
    pub(super) fn place<'m, 'w>(
        self,
        model: &'m Model<'w>,
        file: &'w FileBytes,
        precision: Precision,
        common: Common,
    ) -> Result<Placed<'m, 'w>, Failure> {
        let placed = self.choose(model, file, precision, common)?;
        if matches!(placed, Placed::Cpu(_)) {
            kernels::tell_fallbacks(model, precision)?;
        }
        Ok(placed)
    }

    /// The table of kernels for a file's matrices where `--backend` says: a
    /// model runs on one backend as a whole.
    pub(super) fn kernels(
        self,
        opened: &Opened<'_>,
        precision: Precision,
    ) -> Result<Vec<KernelGroup>, Failure> {
        #[cfg(feature = "gpu")]
        {
            let wanted = match self.backend {
                Backend::Gpu => Some(Gpu::from_env()?),
                Backend::Auto if hardware_likely() => {
                    Gpu::from_env().ok().filter(|g| !g.abilities().software)
                }
                Backend::Cpu | Backend::Auto => None,
            };
            if let Some(gpu) = wanted {
                let groups = opened.kernels(&GpuKernels::of(&gpu, precision));
                if groups.is_ok() || self.backend == Backend::Gpu {
                    return groups;
                }
            }
        }
        opened.kernels(&Cpu::current(precision))
    }

    fn choose<'m, 'w>(
        self,
        model: &'m Model<'w>,
        file: &'w FileBytes,
        precision: Precision,
        common: Common,
    ) -> Result<Placed<'m, 'w>, Failure> {
        #[cfg(not(feature = "gpu"))]
        let _ = (file, precision, common);
        match self.backend {
            Backend::Cpu => Ok(Placed::Cpu(model)),
            #[cfg(feature = "gpu")]
            Backend::Gpu => {
                let placed = on_gpu(Gpu::from_env()?, model, file, precision, common)?;
                Ok(Placed::Gpu(Box::new(placed)))
            }
            #[cfg(feature = "gpu")]
            Backend::Auto => {
                let gpu = if hardware_likely() { Gpu::from_env().ok() } else { None };
                let Some(gpu) = gpu.filter(|g| !g.abilities().software) else {
                    return Ok(Placed::Cpu(model));
                };
                match on_gpu(gpu, model, file, precision, common) {
                    Ok(placed) => Ok(Placed::Gpu(Box::new(placed))),
                    Err(failure) => {
                        eprintln!("note: on the CPU, since {failure}");
                        Ok(Placed::Cpu(model))
                    }
                }
            }
            #[cfg(not(feature = "gpu"))]
            Backend::Gpu => {
                Err(squizd::Error::unsupported("this build has no GPU path (feature gpu)").into())
            }
            #[cfg(not(feature = "gpu"))]
            Backend::Auto => Ok(Placed::Cpu(model)),
        }
    }
}

#[cfg(feature = "gpu")]
fn on_gpu<'m, 'w>(
    gpu: Gpu,
    model: &'m Model<'w>,
    file: &'w FileBytes,
    precision: Precision,
    common: Common,
) -> Result<GpuModel<'m, 'w>, Failure> {
    let gpu = std::sync::Arc::new(gpu);
    let math = Math::for_precision(precision, gpu.abilities());
    let bar = progress::bar(common, file.len() as u64, "loading");
    let placed = GpuModel::new(&gpu, model, Some(file), math, &mut |bytes| bar.set_position(bytes))?;
    bar.finish_and_clear();
    if !common.quiet {
        eprintln!("on {}: weights {}, inputs {}", gpu.adapter(), placed.residency(), placed.math());
    }
    Ok(placed)
}
