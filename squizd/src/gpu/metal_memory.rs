//! Host memory as a Metal buffer (`newBufferWithBytesNoCopy`), so that kernels
//! read a mapped file without a copy. Type-checked for Apple's targets, not yet
//! run there.
#![allow(unsafe_code, reason = "Metal calls that wgpu has no safe form of")]

use objc2_metal::{MTLDevice, MTLResourceOptions};
use std::ptr::NonNull;
use wgpu::hal::api::Metal;

/// A page of Apple's processors, to which sections are aligned. Where pages are
/// smaller (Intel), a mapping that does not begin at such a page is copied.
const PAGE: u64 = 16_384;

/// Bytes to which imported memory must be aligned; `None` if the device is not
/// Metal's.
pub(super) fn alignment(device: &wgpu::Device) -> Option<u64> {
    // SAFETY: the guard is only asked whether it is there.
    let hal = unsafe { device.as_hal::<Metal>() };
    hal.is_some().then_some(PAGE)
}

/// A buffer over `memory`, for kernels to read.
///
/// # Safety
/// `memory` must stay valid and unchanged until the buffer has been destroyed
/// and the device has been waited for, and only be bound for reading.
///
/// # Errors
/// If the memory is not aligned, or Metal does not take it.
pub(super) unsafe fn import(device: &wgpu::Device, memory: &[u8]) -> Result<wgpu::Buffer, String> {
    let alignment = alignment(device).ok_or("not a Metal device")?;
    let size = memory.len() as u64;
    if !(memory.as_ptr() as u64).is_multiple_of(alignment) || !size.is_multiple_of(alignment) || size == 0 {
        return Err(format!("{size} bytes at {:p} are not aligned to {alignment}", memory.as_ptr()));
    }
    let pointer = NonNull::from(memory).cast();
    // SAFETY: the guard is alive until the end, and what it gives is not destroyed.
    let hal = unsafe { device.as_hal::<Metal>() }.ok_or("not a Metal device")?;
    // SAFETY: the pointer is to `memory.len()` bytes of whole pages, which the
    // caller keeps until the buffer is gone; without a deallocator Metal leaves
    // them to their owner. Kernels only read them, as the caller promises.
    let raw = unsafe {
        hal.raw_device().newBufferWithBytesNoCopy_length_options_deallocator(
            pointer,
            memory.len(),
            MTLResourceOptions::StorageModeShared,
            None,
        )
    }
    .ok_or_else(|| format!("Metal does not take {size} bytes of mapped memory"))?;
    // SAFETY: a buffer of this device, of the stated size.
    let owned = unsafe { wgpu::hal::metal::Device::buffer_from_raw(raw, size) };
    drop(hal);
    let descriptor = wgpu::BufferDescriptor {
        label: Some("mapped file"),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    };
    // SAFETY: made on this device as described; it is initialized, being mapped
    // memory, and not empty.
    Ok(unsafe { device.create_buffer_from_hal::<Metal>(owned, &descriptor) })
}
