//! Where a model is computed: `--backend`.

use super::{Common, kernels, model::Opened};
#[cfg(feature = "gpu")]
use super::{model::check_memory, progress};
use crate::Failure;
#[cfg(feature = "gpu")]
use crate::output;
use squizd::dispatch::{Cpu, KernelGroup};
#[cfg(feature = "gpu")]
use squizd::gpu::{Gpu, GpuKernels, GpuModel, Math, hardware_likely, preferred};
use squizd::runtime::{MemoryNeed, Model, Run, Sequences};
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

/// What is to be placed.
pub(super) struct Wanted<'a, 'w> {
    pub(super) opened: &'a Opened<'w>,
    pub(super) file: &'w FileBytes,
    /// What it is placed for.
    pub(super) run: Run,
    /// Do not ask whether the device has room.
    pub(super) force: bool,
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
    /// The option as it is given.
    pub(super) fn flag(self) -> &'static str {
        match self.backend {
            Backend::Cpu => "cpu",
            Backend::Gpu => "gpu",
            Backend::Auto => "auto",
        }
    }

    /// Memory of the machine that a run needs: on a device with memory of its
    /// own, only for what is decoded before the weights go there.
    pub(super) fn host_need(self, opened: &Opened<'_>, run: &Run) -> MemoryNeed {
        let need = opened.memory(run);
        #[cfg(feature = "gpu")]
        if self.backend == Backend::Gpu || self.backend == Backend::Auto && hardware_likely() {
            return match preferred() {
                Some(adapter) if adapter.discrete => {
                    MemoryNeed { unpacked: need.unpacked, ..MemoryNeed::default() }
                }
                Some(adapter) if !adapter.software => {
                    opened.device_memory(run, squizd::gpu::Abilities::assumed(&adapter))
                }
                _ => need,
            };
        }
        need
    }

    /// Brings the weights of `model` to where `--backend` says.
    pub(super) fn place<'m, 'w>(
        self,
        model: &'m Model<'w>,
        wanted: &Wanted<'_, 'w>,
        common: Common,
    ) -> Result<Placed<'m, 'w>, Failure> {
        let placed = self.choose(model, wanted, common)?;
        if matches!(placed, Placed::Cpu(_)) {
            kernels::tell_fallbacks(model, wanted.run.session.precision)?;
        }
        Ok(placed)
    }

    /// The device that `--backend` would take, if it is one.
    #[cfg(feature = "gpu")]
    fn device(self) -> Result<Option<Gpu>, Failure> {
        Ok(match self.backend {
            Backend::Gpu => Some(Gpu::from_env()?),
            Backend::Auto if hardware_likely() => Gpu::from_env().ok().filter(|g| !g.abilities().software),
            Backend::Cpu | Backend::Auto => None,
        })
    }

    /// The table of kernels for a file's matrices where `--backend` says: a
    /// model runs on one backend as a whole.
    /// Beside it, what a device has and needs for the run.
    pub(super) fn kernels(
        self,
        opened: &Opened<'_>,
        run: &Run,
    ) -> Result<(Vec<KernelGroup>, Option<String>), Failure> {
        let precision = run.session.precision;
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.device()? {
            let groups = opened.kernels(&GpuKernels::of(&gpu, precision));
            if groups.is_ok() || self.backend == Backend::Gpu {
                return groups.map(|groups| (groups, Some(device_memory(&gpu, opened, run))));
            }
        }
        Ok((opened.kernels(&Cpu::current(precision))?, None))
    }

    fn choose<'m, 'w>(
        self,
        model: &'m Model<'w>,
        wanted: &Wanted<'_, 'w>,
        common: Common,
    ) -> Result<Placed<'m, 'w>, Failure> {
        #[cfg(not(feature = "gpu"))]
        let _ = (wanted.opened, wanted.file, wanted.run, wanted.force, common);
        match self.backend {
            Backend::Cpu => Ok(Placed::Cpu(model)),
            #[cfg(feature = "gpu")]
            Backend::Gpu => {
                let placed = on_gpu(Gpu::from_env()?, model, wanted, common)?;
                Ok(Placed::Gpu(Box::new(placed)))
            }
            #[cfg(feature = "gpu")]
            Backend::Auto => {
                let Some(gpu) = self.device()? else { return Ok(Placed::Cpu(model)) };
                match on_gpu(gpu, model, wanted, common) {
                    Ok(placed) => Ok(Placed::Gpu(Box::new(placed))),
                    Err(failure) => {
                        eprintln!("note: on the CPU, since {failure}");
                        check_memory(&wanted.opened.memory(&wanted.run), wanted.force)?;
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
    wanted: &Wanted<'_, 'w>,
    common: Common,
) -> Result<GpuModel<'m, 'w>, Failure> {
    let Wanted { opened, file, run, force } = wanted;
    if !force && let Some(free) = gpu.free_memory() {
        let need = opened.device_memory(run, gpu.abilities()).check(free);
        need.map_err(|e| Failure::usage(e.to_string()).of(gpu.adapter()))?;
    }
    let gpu = std::sync::Arc::new(gpu);
    let math = Math::for_precision(run.session.precision, gpu.abilities());
    let bar = progress::bar(common, file.len() as u64, "loading");
    let placed = GpuModel::new(&gpu, model, Some(*file), math, &mut |bytes| bar.set_position(bytes))?;
    bar.finish_and_clear();
    if !common.quiet {
        eprintln!("on {}: weights {}, inputs {}", gpu.adapter(), placed.residency(), placed.math());
    }
    Ok(placed)
}

/// What the run needs of a device's memory, and what there is.
#[cfg(feature = "gpu")]
fn device_memory(gpu: &Gpu, opened: &Opened<'_>, run: &Run) -> String {
    let need = kernels::memory(&opened.device_memory(run, gpu.abilities()), &run.session);
    let free = match (gpu.free_memory(), gpu.abilities().discrete) {
        (Some(free), _) => format!("{} are free there", output::bytes(free)),
        (None, true) => "what is free there is not told by the driver, so it is not checked".to_owned(),
        (None, false) => "it shares the machine's memory".to_owned(),
    };
    format!("device {}: {free}; needed {need}", gpu.adapter().name)
}
