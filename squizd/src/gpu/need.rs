//! Memory of the device that a run needs, and what the device has left.
#![cfg_attr(
    not(target_vendor = "apple"),
    allow(unsafe_code, reason = "a Vulkan query that wgpu has no safe form of")
)]

use super::codec::{escapes_need, rotation_key, tables};
use super::device::{Abilities, Gpu};
use super::forward::{LOGIT_ROWS, shared_bytes, shares_of};
use super::math::Math;
use super::session::BATCH;
use super::texels::Store;
use crate::codec::Precision;
use crate::dispatch::Subject;
use crate::model::ModelConfig;
use crate::runtime::{KvType, MemoryNeed, Run, StoredSize};
use squizd_spec::SquizdRef;

impl Gpu {
    /// Bytes of its own memory that the device may still give this process, if it
    /// has memory of its own and its driver tells: what `VK_EXT_memory_budget`
    /// leaves, else all there is.
    pub fn free_memory(&self) -> Option<u64> {
        self.abilities().discrete.then(|| local(&self.device)).flatten()
    }
}

#[cfg(not(target_vendor = "apple"))]
pub(super) fn local(device: &wgpu::Device) -> Option<u64> {
    use ash::vk;
    // SAFETY: the guard is only read from.
    let hal = unsafe { device.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, physical) = (hal.shared_instance().raw_instance(), hal.raw_physical_device());
    // SAFETY: instance and physical device are alive behind the guard.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }.ok()?;
    let named = |e: &vk::ExtensionProperties| {
        e.extension_name_as_c_str().is_ok_and(|name| name == ash::ext::memory_budget::NAME)
    };
    let told = extensions.iter().any(named);
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceMemoryProperties2::default();
    if told {
        properties = properties.push_next(&mut budget);
    }
    // SAFETY: as above; the chain is of structures on the stack, of an extension
    // that the physical device has.
    unsafe { instance.get_physical_device_memory_properties2(physical, &mut properties) };
    let memory = properties.memory_properties;
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    let left = heaps.zip(budget.heap_budget.iter().zip(&budget.heap_usage));
    let left = left.filter(|(heap, _)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
    left.map(|(heap, (budget, used))| if told { budget.saturating_sub(*used) } else { heap.size }).max()
}

#[cfg(target_vendor = "apple")]
pub(super) fn local(_: &wgpu::Device) -> Option<u64> {
    // One memory for all.
    None
}

/// Memory that a run of a file needs of a device of these abilities.
pub fn device_need(
    file: &SquizdRef<'_>,
    config: &ModelConfig,
    run: &Run,
    abilities: Abilities,
) -> MemoryNeed {
    let sizes = file.descs().filter_map(|t| {
        let vector = t.dims.len() == 1;
        Subject::of(&t).map(|subject| StoredSize { subject, vector, bytes: t.length })
    });
    predict(config, sizes, run, abilities)
}

/// The same for tensors under a model's hyper-parameters: payloads as stored, and
/// the buffers of `super::forward::Buffers`.
pub(super) fn predict<'a>(
    config: &ModelConfig,
    tensors: impl IntoIterator<Item = StoredSize<'a>>,
    run: &Run,
    abilities: Abilities,
) -> MemoryNeed {
    let mut need = MemoryNeed::default();
    let (mut rotations, mut shared) = (Vec::new(), Vec::new());
    for StoredSize { subject, vector, bytes } in tensors {
        if vector {
            let floats = subject.matrix.elements().next_multiple_of(64);
            need.unpacked = need.unpacked.saturating_add(floats.saturating_mul(4));
        } else {
            need.weights = need.weights.saturating_add(bytes.next_multiple_of(256));
            if Store::of(abilities, subject.codec).is_some() {
                // The blocks once more, as a texture.
                need.unpacked = need.unpacked.saturating_add(bytes.next_multiple_of(256));
            }
            need.unpacked = need.unpacked.saturating_add(escapes_need(&subject, bytes));
            if let Some((name, make)) = tables(subject.codec, subject.params)
                && !shared.contains(&name)
            {
                need.unpacked = need.unpacked.saturating_add(make(subject.params).len() as u64);
                shared.push(name);
            }
            let cols = subject.matrix.cols;
            let turned = rotation_key(subject.codec, subject.params, cols).map(|key| (key, cols));
            rotations.extend(turned.filter(|turned| !rotations.contains(turned)));
        }
    }
    let sessions = run.sessions as u64;
    let (context, dim) = (run.session.context as u64, u64::from(config.head_dim));
    let (queries, keys) = (u64::from(config.num_heads) * dim, u64::from(config.num_kv_heads) * dim);
    // Bytes become halves on the device; heads are whole vectors of four.
    let value = if run.session.kv == KvType::F32 { 4 } else { 2 };
    let layer = u64::from(config.num_kv_heads) * dim.next_multiple_of(4) * 2 * value;
    need.kv_cache =
        layer.saturating_mul(context).saturating_mul(config.num_layers.into()).saturating_mul(sessions);

    let batch = run.session.batch.min(BATCH).min(run.session.context) as u64;
    let rows = batch.min(LOGIT_ROWS as u64);
    let (hidden, vocab) = (u64::from(config.hidden_size), u64::from(config.vocab_size));
    let (wide, routes, experts) = config.moe.as_ref().map_or((config.ffn_size, 1, 0), |moe| {
        (moe.expert_ffn_size.max(config.ffn_size), u64::from(moe.experts_per_token), moe.num_experts.into())
    });
    let (hidden, queries, wide) =
        (hidden.next_multiple_of(32), queries.next_multiple_of(32), u64::from(wide).next_multiple_of(32));
    // Inputs: floats, at most as many bytes in the coded form, sums of blocks.
    let input = |values: u64| values.saturating_mul(17) / 2;
    let widths = [(hidden, batch), (queries, batch), (wide, batch * routes), (hidden, rows)];
    let of_width = |cols: u64| -> u64 {
        widths.iter().filter(|(width, _)| *width == cols.next_multiple_of(32)).map(|(w, n)| w * n).sum()
    };
    let values: u64 = widths.iter().map(|(width, count)| width * count).sum();
    // Floats, coded form and sums under each rotation that a matrix of the input's
    // width has; halves of those, or of the input's own.
    let rotated: u64 = rotations.iter().map(|(_, cols)| of_width(*cols)).sum();
    let math = Math::for_precision(run.session.precision, abilities);
    let coded = if math == Math::F32 { 0 } else { math.bytes() * rotated + rotated / 2 };
    let by_halves = abilities.cooperative.is_some() && run.session.precision == Precision::Q8;
    let halves = if by_halves { values.max(rotated) } else { 0 };
    let inputs = input(values) + 4 * rotated + coded + 2 * halves;
    let scores = experts + if experts > 0 { routes * (2 + hidden) } else { 0 };
    // Outputs of matrices that share a buffer begin at multiples of 64.
    let part = |n: u64| n.next_multiple_of(64);
    let products = part(queries) + 2 * part(keys) + 2 * part(wide) * routes;
    let floats = batch * (2 * hidden + products + 2 * dim + 1 + scores) + rows.saturating_mul(vocab) + 256;
    let heads = usize::from(config.num_heads);
    let shared = match shares_of(run.session.context, heads) {
        1 => 0,
        shares => shared_bytes(shares, heads, config.head_dim as usize),
    };
    need.scratch = floats.saturating_mul(4).saturating_add(inputs + shared).saturating_mul(sessions);
    need
}

#[cfg(test)]
mod tests {
    use super::super::model::GpuModel;
    use super::super::session::GpuSession;
    use super::super::tests::gpu;
    use super::*;
    use crate::runtime::testing::Trained;
    use crate::runtime::{Model, SessionOptions};
    use squizd_spec::CodecId;
    use std::sync::Arc;

    #[test]
    fn the_device_takes_what_was_predicted() {
        if gpu().is_none() {
            return;
        }
        for (codec, math) in [
            (CodecId::INT4, Math::F32),
            (CodecId::TCA_TBE, Math::F32),
            (CodecId::SQINT2, Math::F32),
            (CodecId::SQINT2, Math::I24),
        ] {
            takes_what_was_predicted(codec, math);
        }
    }

    /// Blocks are predicted twice where they become textures, too.
    #[test]
    fn textures_are_copies() {
        let Some(gpu) = gpu() else { return };
        let trained = Trained::tiny();
        let weights = trained.weights.encoded(CodecId::ASTC);
        let run = Run { session: SessionOptions::default(), sessions: 1, logits: 1, threads: 1 };
        let need = |astc_hdr| {
            let abilities = Abilities { astc_hdr, ..gpu.abilities() };
            predict(&trained.config, weights.sizes(), &run, abilities)
        };
        let (plain, sampled) = (need(false), need(true));
        let blocks: u64 = weights.sizes().filter(|s| !s.vector).map(|s| s.bytes).sum();
        assert!((blocks..2 * blocks).contains(&(sampled.total() - plain.total())));
    }

    fn takes_what_was_predicted(codec: CodecId, math: Math) {
        let trained = Trained::tiny();
        let weights = trained.weights.encoded(codec);
        let model = Model::new(&trained.config, &&weights).unwrap();
        // Other tests use the shared one.
        let gpu = Arc::new(Gpu::from_env().unwrap());
        // An adapter that shares the host's memory has heaps too.
        assert!(local(&gpu.device).is_some_and(|free| free > 1 << 20));
        assert_eq!(gpu.free_memory().is_some(), gpu.abilities().discrete);
        let taken = || {
            // What was staged to be written is given back then.
            gpu.queue.submit([]);
            gpu.wait().unwrap();
            gpu.device.generate_allocator_report().map(|r| r.total_allocated_bytes)
        };
        let Some(before) = taken() else { panic!("the allocator reports nothing") };
        for (context, kv) in [(512, KvType::F16), (4096, KvType::F32)] {
            let session = SessionOptions { context, kv, ..SessionOptions::default() };
            let run = Run { session, sessions: 1, logits: 1, threads: 1 };
            // With integer dot products, f32 means inputs of 24 bits.
            let abilities = Abilities { dot8: math == Math::I24, ..gpu.abilities() };
            let need = predict(&trained.config, weights.sizes(), &run, abilities);
            let loaded = GpuModel::new(&gpu, &model, None, math, &mut |_| {}).unwrap();
            let mut open = GpuSession::new(&loaded, session).unwrap();
            // Some buffers come with the first whole batch.
            open.forward(&vec![1; session.batch.min(BATCH)]).unwrap();
            let used = taken().unwrap() - before;
            assert!(
                (used..=used + used / 4).contains(&need.total()),
                "{codec} {math} {context} {kv}: {used} taken, predicted {need:?}"
            );
            drop(open);
            drop(loaded);
        }
    }
}
