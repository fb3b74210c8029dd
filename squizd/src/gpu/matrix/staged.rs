//! Products that make their input themselves, in every workgroup
//! (`shaders/stage.wgsl`): a dispatch less, where rows are few.

use super::super::device::Gpu;
use super::super::input::Input;
use super::super::math::Math;
use super::super::pipeline::{Port, Span, read};
use super::super::record::Step;
use super::super::tuning::Tuning;
use super::{GpuMatrix, Output, Params};
use crate::Result;
use squizd_shaders::Options;

/// Invocations of a workgroup: many share what it makes.
const WORKGROUP: u32 = 256;
/// Workgroups of which a large device runs all at once with room to spare; with
/// more, each takes more rows.
const AT_ONCE: u32 = 264;
const MOST_ROWS: u32 = 4;
/// Turns of all workgroups in making inputs, and of each, at most: beyond, they
/// take as long as a dispatch, or longer.
const MOST_TURNS: u32 = 2048;
const MOST_EACH: u64 = 2;
/// Memory that a workgroup may have on every device.
const MEMORY: u32 = 32 << 10;

/// What an input is made of.
#[derive(Clone, Debug)]
pub(in super::super) struct Made {
    /// How: flags of `stage.wgsl` and `rotate.wgsl`.
    pub(in super::super) flags: Vec<&'static str>,
    /// The values that are changed, and the gain or what they gate.
    pub(in super::super) spans: [Span; 2],
    /// Of the norm.
    pub(in super::super) eps: f32,
}

/// An input that products make.
#[derive(Clone, Debug)]
pub(in super::super) struct Staged {
    pub(in super::super) made: Made,
    /// The form that it gets.
    pub(in super::super) math: Math,
}

/// Where a product gets its input.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Fetch<'a> {
    /// Dispatches before have made it ready.
    Ready(&'a Input),
    /// The workgroups make it.
    Staged(&'a Staged),
}

impl Fetch<'_> {
    /// The norm's, if it is made with one.
    pub(super) fn eps(&self) -> f32 {
        match self {
            Self::Ready(_) => 0.0,
            Self::Staged(staged) => staged.made.eps,
        }
    }
}

impl GpuMatrix {
    /// Whether products of `matrices` with an input of form `math` are better off
    /// making it.
    pub(in super::super) fn stage(math: Math, matrices: &[&Self]) -> bool {
        let rows = matrices.iter().map(|m| m.rows).sum();
        matrices.iter().all(|m| {
            let workgroups = u64::from(rows).div_ceil(m.staged_tuning(rows).rows_per_workgroup());
            let turns = u64::from(m.cols.next_multiple_of(32) / 4).div_ceil(WORKGROUP.into());
            m.joins()
                && m.pieces.len() == 1
                && turns <= MOST_EACH
                && workgroups * turns <= MOST_TURNS.into()
                && m.staged_memory(math) <= MEMORY
        })
    }

    /// The smallest odd number of units that a row has room in.
    fn span(&self) -> u32 {
        self.units() | 1
    }

    /// Bytes that a workgroup needs: input and sums, what is passed on in making
    /// it, partial sums of norm and products.
    fn staged_memory(&self, math: Math) -> u32 {
        let unit = self.effective(math).bytes() as u32 * self.recipe.unit + 16;
        unit.saturating_mul(self.span()).saturating_add((8 + 4 + 8) * WORKGROUP)
    }

    pub(super) fn staged_tuning(&self, rows: u32) -> Tuning {
        let cluster = self.recipe.options.constant("CLUSTER");
        let units = match cluster {
            Some(_) => self.turns(),
            None if self.blocks() => self.units(),
            None => self.units().div_ceil(2),
        };
        let lanes = units.next_power_of_two().clamp(cluster.unwrap_or(8), 64);
        let most = if cluster.is_some() { 2 } else { MOST_ROWS };
        let mut tuning = Tuning { workgroup: WORKGROUP, lanes, rows: 1, unroll: 1, neighbours: false };
        while tuning.rows < most && u64::from(rows).div_ceil(tuning.rows_per_workgroup()) > AT_ONCE.into() {
            tuning.rows *= 2;
        }
        tuning
    }

    /// Options and bindings of `gemv` behind the slots.
    pub(super) fn staged_parts(
        &self,
        gpu: &Gpu,
        staged: &Staged,
        out: Output<'_>,
        tuning: Tuning,
    ) -> (Options, Vec<(Port, Span)>) {
        let mut options = self.gemv_options(gpu, staged.math, out, tuning).flag("STAGED");
        options = staged.made.flags.iter().fold(options, |o, flag| o.flag(flag)).with("SPAN", self.span());
        if self.units() <= tuning.lanes && options.constant("STRIP").is_none() {
            options = options.flag("ALONE");
        }
        let [values, companions] = staged.made.spans.clone();
        let mut tail = vec![(read(4), values), (read(5), companions)];
        tail.extend(out.ports());
        (options, tail)
    }

    /// The product with the input that `staged` makes.
    pub(in super::super) fn staged_gemv(
        &self,
        gpu: &Gpu,
        staged: &Staged,
        out: Output<'_>,
    ) -> Result<Vec<Step>> {
        let tuning = self.staged_tuning(self.rows);
        let (options, tail) = self.staged_parts(gpu, staged, out, tuning);
        let options = Self::in_strips(options, tuning);
        self.steps(gpu, self.codec.gemv, &options, &tail, |params| {
            let params = Params { share: 1, units: self.turns(), factor: staged.made.eps, ..params };
            (params, [u64::from(params.rows).div_ceil(tuning.rows_per_workgroup()), 0, 1])
        })
    }
}
