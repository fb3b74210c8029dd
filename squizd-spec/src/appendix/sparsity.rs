//! Sparsity appendix: per feed-forward layer, neurons grouped into clusters
//! that fire together, and a linear predictor of the clusters a token needs.
//!
//! The weights are stored in the clustered order: row `i` of `ffn_gate` and
//! `ffn_up`, and column `i` of `ffn_down`, belong to the neuron that was number
//! `permutation[i]` in the source. Cluster `c` is computed for a token with
//! feed-forward input `h` (after the norm) when
//! `sum_d h[d] * predictor[d][c] > threshold`.
//!
//! ```text
//! 0   Head: version, layer count
//! 16  Entry x layer count, layers ascending
//! ..  per layer, at the next multiple of 256:
//!     boundaries u32[n + 1], histogram f32[n], permutation u32[neurons],
//!     zero padding to the next multiple of 256,
//!     predictor f16[d_model][n]
//! ```

use super::{Report, check_version, span::Span};
use crate::{
    ErrorKind, Limits, Result, SquizdError,
    layout::{Header, TENSOR_ALIGN},
};
use alloc::{format, string::String, vec, vec::Vec};
use core::mem::offset_of;
use zerocopy::little_endian::{F32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Layout version this build reads and writes.
pub const VERSION: u16 = 1;

/// Start of the section: 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// [`VERSION`].
    pub version: U16,
    /// Entries that follow.
    pub layer_count: U16,
    /// Zero.
    pub reserved: [u8; 12],
}

/// Directory entry of one layer: 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// Layer index.
    pub layer: U16,
    /// Clusters.
    pub n_clusters: U16,
    /// Neurons: rows of `ffn_gate` and `ffn_up`, columns of `ffn_down`.
    pub n_neurons: U32,
    /// Width of the predictor's input, the header's `hidden_dim`.
    pub d_model: U32,
    /// Share of neurons that calibration found inactive, 0 to 1.
    pub expected_sparsity: F32,
    /// A cluster is active where its prediction exceeds this.
    pub threshold: F32,
    /// Zero.
    pub reserved: U32,
    /// Offset of the layer's data from the start of the section.
    pub offset: U64,
}

const HEAD_SIZE: u64 = size_of::<Head>() as u64;
const ENTRY_SIZE: u64 = size_of::<Entry>() as u64;
const _: () = assert!(HEAD_SIZE == 16 && ENTRY_SIZE == 32);

/// One layer, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Directory entry.
    pub entry: &'a Entry,
    /// Absolute offset of the directory entry.
    pub entry_offset: u64,
    /// Absolute offset of the layer's data.
    pub offset: u64,
    /// First neuron of each cluster, and the number of neurons.
    pub boundaries: &'a [U32],
    /// How often each cluster fires, 0 to 1.
    pub histogram: &'a [F32],
    /// Source index of each stored neuron.
    pub permutation: &'a [U32],
    /// Predictor weights, IEEE half bits: row `d` (input) has one per cluster.
    pub predictor: &'a [U16],
}

/// Contents of one layer, for [`write`].
#[derive(Clone, Copy, Debug)]
pub struct LayerData<'a> {
    /// Layer index.
    pub layer: u16,
    /// Width of the predictor's input.
    pub d_model: u32,
    /// Share of neurons that calibration found inactive, 0 to 1.
    pub expected_sparsity: f32,
    /// A cluster is active where its prediction exceeds this.
    pub threshold: f32,
    /// First neuron of each cluster, and the number of neurons.
    pub boundaries: &'a [u32],
    /// How often each cluster fires.
    pub histogram: &'a [f32],
    /// Source index of each stored neuron.
    pub permutation: &'a [u32],
    /// Predictor weights, IEEE half bits, `[d_model][clusters]`.
    pub predictor: &'a [u16],
}

/// Where the parts of a layer lie, from the start of its data.
struct Parts {
    histogram: u64,
    permutation: u64,
    padding: u64,
    predictor: u64,
    end: u64,
}

impl Parts {
    /// Cannot overflow: all counts have at most 32 bits.
    fn of(entry: &Entry) -> Self {
        let n = u64::from(entry.n_clusters.get());
        let histogram = 4 * (n + 1);
        let permutation = histogram + 4 * n;
        let padding = permutation + 4 * u64::from(entry.n_neurons.get());
        let predictor = padding.next_multiple_of(TENSOR_ALIGN);
        let end = predictor + 2 * n * u64::from(entry.d_model.get());
        Self { histogram, permutation, padding, predictor, end }
    }
}

/// The appendix, borrowed from the section's bytes.
#[derive(Clone, Debug)]
pub struct Sparsity<'a> {
    layers: Vec<Layer<'a>>,
}

impl<'a> Sparsity<'a> {
    /// Reads the section whose first byte has absolute offset `base`: sizes,
    /// order and placement. [`Sparsity::check`] looks at the values.
    pub fn parse(bytes: &'a [u8], base: u64, limits: &Limits) -> Result<Self> {
        let span = Span::new(bytes, base);
        let head: &Head = span.record(0, "section head")?;
        check_version(head.version.get(), VERSION, span.at(0), "sparsity appendix")?;
        let reserved_at = offset_of!(Head, reserved) as u64;
        span.zero(reserved_at, &head.reserved, "appendix-reserved", "reserved byte")?;
        let count = head.layer_count.get();
        let count_at = span.at(offset_of!(Head, layer_count) as u64);
        if count == 0 {
            return Err(SquizdError::invalid("sparsity-empty", count_at, "layer_count is 0"));
        }
        if count > limits.layers {
            let message = format!("layer_count is {count}, limit {}", limits.layers);
            return Err(SquizdError::new(ErrorKind::Limit, "limit-layers", count_at, message));
        }
        let entries: &[Entry] = span.slice(HEAD_SIZE, u64::from(count), "layer directory")?;
        let mut end = HEAD_SIZE + ENTRY_SIZE * u64::from(count);
        let mut layers = Vec::with_capacity(entries.len());
        let mut previous = None;
        for (i, entry) in entries.iter().enumerate() {
            let entry_at = HEAD_SIZE + ENTRY_SIZE * i as u64;
            let layer = parse_layer(span, entry, entry_at, end, previous, limits)
                .map_err(|e| e.within(&layer_path(entry)))?;
            end = entry.offset.get() + Parts::of(entry).end;
            previous = Some(entry.layer.get());
            layers.push(layer);
        }
        span.ends_at(end, "the sparsity appendix")?;
        Ok(Self { layers })
    }

    /// The layers, ascending.
    pub fn layers(&self) -> &[Layer<'a>] {
        &self.layers
    }

    /// The entry of layer `index`.
    pub fn layer(&self, index: u16) -> Option<&Layer<'a>> {
        self.layers.iter().find(|l| l.entry.layer.get() == index)
    }

    /// The header's `sparsity_ratio`: mean of the layers' expected sparsity,
    /// summed in order in f64.
    pub fn mean_sparsity(&self) -> f32 {
        let sum: f64 = self.layers.iter().map(|l| f64::from(l.entry.expected_sparsity.get())).sum();
        (sum / self.layers.len().max(1) as f64) as f32
    }

    /// Reports every value that is out of range, and every disagreement with
    /// the file's header. Tensors are [`super::compat`]'s part.
    pub fn check(&self, header: &Header, report: Report<'_>) -> Result<()> {
        for layer in &self.layers {
            let path = layer_path(layer.entry);
            let report: Report<'_> = &mut |e: SquizdError| report(e.within(&path));
            let index = layer.entry.layer.get();
            if index >= header.num_layers.get() {
                report(SquizdError::invalid(
                    "sparsity-layer",
                    layer.entry_offset,
                    format!("layer is {index}, the model has {}", header.num_layers),
                ))?;
            }
            let d_model = layer.entry.d_model.get();
            if d_model != header.hidden_dim.get() {
                report(SquizdError::invalid(
                    "sparsity-width",
                    layer.entry_offset + offset_of!(Entry, d_model) as u64,
                    format!("d_model is {d_model}, the header's hidden_dim {}", header.hidden_dim),
                ))?;
            }
            layer.check(report)?;
        }
        let (mean, ratio) = (self.mean_sparsity(), header.sparsity_ratio.get());
        if mean.to_bits() != ratio.to_bits() {
            let at = offset_of!(Header, sparsity_ratio) as u64;
            let message = format!("sparsity_ratio is {ratio}, the appendix's mean is {mean}");
            report(SquizdError::invalid("sparsity-ratio", at, message))?;
        }
        Ok(())
    }
}

fn layer_path(entry: &Entry) -> String {
    format!("sparsity layer {}", entry.layer)
}

fn parse_layer<'a>(
    span: Span<'a>,
    entry: &'a Entry,
    entry_at: u64,
    previous_end: u64,
    previous_layer: Option<u16>,
    limits: &Limits,
) -> Result<Layer<'a>> {
    let at = |field: usize| span.at(entry_at + field as u64);
    let (layer, n, neurons) = (entry.layer.get(), entry.n_clusters.get(), entry.n_neurons.get());
    if previous_layer.is_some_and(|p| p >= layer) {
        return Err(SquizdError::invalid("sparsity-order", at(0), "layers must ascend without repetition"));
    }
    let clusters_at = at(offset_of!(Entry, n_clusters));
    if n > limits.clusters {
        let message = format!("n_clusters is {n}, limit {}", limits.clusters);
        return Err(SquizdError::new(ErrorKind::Limit, "limit-clusters", clusters_at, message));
    }
    if n == 0 || u32::from(n) > neurons {
        let message = format!("n_clusters is {n}, allowed 1..={neurons} (n_neurons)");
        return Err(SquizdError::invalid("sparsity-clusters", clusters_at, message));
    }
    let reserved_at = entry_at + offset_of!(Entry, reserved) as u64;
    span.zero(reserved_at, entry.reserved.as_bytes(), "appendix-reserved", "reserved byte")?;
    let start = entry.offset.get();
    let want = previous_end.next_multiple_of(TENSOR_ALIGN);
    if start != want {
        let message = format!("offset is {start}, must be {want} (the next multiple of {TENSOR_ALIGN})");
        return Err(SquizdError::invalid("appendix-offset", at(offset_of!(Entry, offset)), message));
    }
    span.padding(previous_end, start)?;
    let parts = Parts::of(entry);
    let n = u64::from(n);
    let layer = Layer {
        entry,
        entry_offset: span.at(entry_at),
        offset: span.at(start),
        boundaries: span.slice(start, n + 1, "cluster boundaries")?,
        histogram: span.slice(start + parts.histogram, n, "activation histogram")?,
        permutation: span.slice(start + parts.permutation, u64::from(neurons), "permutation")?,
        predictor: span.slice(
            start + parts.predictor,
            (parts.end - parts.predictor) / 2,
            "predictor weights",
        )?,
    };
    span.padding(start + parts.padding, start + parts.predictor)?;
    Ok(layer)
}

impl Layer<'_> {
    /// Neurons of cluster `index`.
    pub fn cluster(&self, index: usize) -> Option<core::ops::Range<u32>> {
        Some(self.boundaries.get(index)?.get()..self.boundaries.get(index + 1)?.get())
    }

    /// Absolute offset of boundary `index`.
    pub(super) fn boundary_offset(&self, index: usize) -> u64 {
        self.offset + 4 * index as u64
    }

    /// Reports every value out of range, by kind: the first of each array.
    fn check(&self, report: Report<'_>) -> Result<()> {
        let parts = Parts::of(self.entry);
        let share = self.entry.expected_sparsity.get();
        if !(0.0..=1.0).contains(&share) {
            let at = self.entry_offset + offset_of!(Entry, expected_sparsity) as u64;
            let message = format!("expected_sparsity is {share}, allowed 0..=1");
            report(SquizdError::invalid("sparsity-expected", at, message))?;
        }
        let threshold = self.entry.threshold.get();
        if !threshold.is_finite() {
            let at = self.entry_offset + offset_of!(Entry, threshold) as u64;
            report(SquizdError::invalid(
                "sparsity-threshold",
                at,
                format!("threshold is {threshold}, must be finite"),
            ))?;
        }
        self.check_boundaries(report)?;
        if let Some((i, v)) = self.histogram.iter().enumerate().find(|(_, v)| !(0.0..=1.0).contains(&v.get()))
        {
            let at = self.offset + parts.histogram + 4 * i as u64;
            let message = format!("activation frequency of cluster {i} is {v}, allowed 0..=1");
            report(SquizdError::invalid("sparsity-histogram", at, message))?;
        }
        self.check_permutation(self.offset + parts.permutation, report)?;
        if let Some(i) = self.predictor.iter().position(|w| w.get() & 0x7c00 == 0x7c00) {
            let at = self.offset + parts.predictor + 2 * i as u64;
            let message = format!("predictor weight {i} is NaN or infinite");
            report(SquizdError::invalid("sparsity-predictor", at, message))?;
        }
        Ok(())
    }

    fn check_boundaries(&self, report: Report<'_>) -> Result<()> {
        let neurons = self.entry.n_neurons.get();
        let bad =
            |i: usize, message| SquizdError::invalid("sparsity-boundaries", self.boundary_offset(i), message);
        if let Some(first) = self.boundaries.first()
            && first.get() != 0
        {
            report(bad(0, format!("boundary 0 is {first}, must be 0")))?;
        }
        for (i, pair) in self.boundaries.windows(2).enumerate() {
            if let [a, b] = pair
                && a.get() >= b.get()
            {
                report(bad(i + 1, format!("boundary {} is {b}, must exceed {a}", i + 1)))?;
                break;
            }
        }
        if let Some(last) = self.boundaries.last()
            && last.get() != neurons
        {
            let i = self.boundaries.len() - 1;
            report(bad(i, format!("boundary {i} is {last}, must be n_neurons, {neurons}")))?;
        }
        Ok(())
    }

    /// A permutation of 0..n: each index in range and seen once.
    fn check_permutation(&self, at: u64, report: Report<'_>) -> Result<()> {
        let mut seen = vec![0u64; self.permutation.len().div_ceil(64)];
        for (i, source) in self.permutation.iter().enumerate() {
            let source = source.get();
            let bit = 1 << (source % 64);
            let fresh = (source as usize) < self.permutation.len()
                && seen.get_mut(source as usize / 64).is_some_and(|word| {
                    let fresh = *word & bit == 0;
                    *word |= bit;
                    fresh
                });
            if !fresh {
                return report(SquizdError::invalid(
                    "sparsity-permutation",
                    at + 4 * i as u64,
                    format!(
                        "permutation[{i}] is {source}: out of range 0..{} or a repetition",
                        self.permutation.len()
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The section's bytes for `layers`, in ascending layer order.
///
/// # Errors
/// Everything that [`Sparsity::parse`] and [`Sparsity::check`] would refuse
/// about the layers themselves; offsets are relative to the section.
pub fn write(layers: &[LayerData<'_>], limits: &Limits) -> Result<Vec<u8>> {
    let size = |message: String| SquizdError::invalid("sparsity-shape", 0, message);
    let count = u16::try_from(layers.len()).map_err(|_| size("more than 65535 layers".into()))?;
    let head = Head { version: VERSION.into(), layer_count: count.into(), reserved: [0; 12] };
    let mut entries = Vec::with_capacity(layers.len());
    let mut end = HEAD_SIZE + ENTRY_SIZE * u64::from(count);
    for l in layers {
        let clusters = u16::try_from(l.histogram.len()).ok();
        let neurons = u32::try_from(l.permutation.len()).ok();
        let (Some(clusters), Some(neurons)) = (clusters, neurons) else {
            return Err(size(format!("layer {}: too many clusters or neurons", l.layer)));
        };
        let entry = Entry {
            layer: l.layer.into(),
            n_clusters: clusters.into(),
            n_neurons: neurons.into(),
            d_model: l.d_model.into(),
            expected_sparsity: l.expected_sparsity.into(),
            threshold: l.threshold.into(),
            reserved: 0.into(),
            offset: end.next_multiple_of(TENSOR_ALIGN).into(),
        };
        let weights = u64::from(clusters) * u64::from(l.d_model);
        if l.boundaries.len() != l.histogram.len() + 1 || l.predictor.len() as u64 != weights {
            return Err(size(format!(
                "layer {}: {clusters} clusters and d_model {} need {} boundaries and {weights} predictor weights, found {} and {}",
                l.layer,
                l.d_model,
                l.histogram.len() + 1,
                l.boundaries.len(),
                l.predictor.len()
            )));
        }
        end = entry.offset.get() + Parts::of(&entry).end;
        entries.push(entry);
    }
    let mut out = Vec::new();
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(entries.as_bytes());
    for l in layers {
        pad(&mut out);
        l.boundaries.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        l.histogram.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        l.permutation.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        pad(&mut out);
        l.predictor.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    }
    for layer in Sparsity::parse(&out, 0, limits)?.layers() {
        layer.check(&mut |e| Err(e.within(&layer_path(layer.entry))))?;
    }
    Ok(out)
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(TENSOR_ALIGN as usize), 0);
}

#[cfg(test)]
#[path = "sparsity_tests.rs"]
mod tests;
