//! Host memory as a Vulkan buffer (`VK_EXT_external_memory_host`), so that
//! kernels read a mapped file without a copy.
#![allow(unsafe_code, reason = "Vulkan calls that wgpu has no safe form of")]

use ash::vk;
use wgpu::hal::api::Vulkan;

/// The extension.
const EXTENSION: &std::ffi::CStr = ash::ext::external_memory_host::NAME;
/// How host memory is imported.
const HANDLE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

/// Opens `adapter` as `request` says with the extension enabled; `None` where
/// the adapter is not Vulkan's or has no such extension.
pub(super) fn open(
    adapter: &wgpu::Adapter,
    request: &wgpu::DeviceDescriptor<'_>,
) -> Option<(wgpu::Device, wgpu::Queue)> {
    // SAFETY: the guard is only read from, and nothing of it is destroyed.
    let hal = unsafe { adapter.as_hal::<Vulkan>() }?;
    if !hal.physical_device_capabilities().supports_extension(EXTENSION) {
        return None;
    }
    let enable = Box::new(|arguments: wgpu::hal::vulkan::CreateDeviceCallbackArgs<'_, '_, '_>| {
        arguments.extensions.push(EXTENSION);
    });
    // SAFETY: features and limits are the adapter's own (`Gpu::open` intersects
    // them), and the callback only adds an extension that the physical device
    // has just been asked for.
    let opened = unsafe {
        hal.open_with_callback(
            request.required_features,
            &request.required_limits,
            &request.memory_hints,
            Some(enable),
        )
    }
    .ok()?;
    drop(hal);
    // SAFETY: `opened` comes from this adapter, with the same features.
    unsafe { adapter.create_device_from_hal(opened, request) }.ok()
}

/// Bytes to which imported memory must be aligned; `None` if the device was
/// opened without the extension.
pub(super) fn alignment(device: &wgpu::Device) -> Option<u64> {
    // SAFETY: the guard is only read from.
    let hal = unsafe { device.as_hal::<Vulkan>() }?;
    if !hal.enabled_device_extensions().contains(&EXTENSION) {
        return None;
    }
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
    let instance = hal.shared_instance().raw_instance();
    // SAFETY: instance and physical device are alive behind the guard, and the
    // chain is of structures on the stack.
    unsafe { instance.get_physical_device_properties2(hal.raw_physical_device(), &mut properties) };
    Some(host.min_imported_host_pointer_alignment)
}

/// A buffer over `memory`, for kernels to read.
///
/// # Safety
/// `memory` must stay valid and unchanged until the buffer has been destroyed
/// and the device has been waited for, and only be bound for reading.
///
/// # Errors
/// What the driver answered, if it does not take the memory.
pub(super) unsafe fn import(device: &wgpu::Device, memory: &[u8]) -> Result<wgpu::Buffer, String> {
    let alignment = alignment(device).ok_or("the device cannot import host memory")?;
    let size = memory.len() as u64;
    if !(memory.as_ptr() as u64).is_multiple_of(alignment) || !size.is_multiple_of(alignment) || size == 0 {
        return Err(format!("{size} bytes at {:p} are not aligned to {alignment}", memory.as_ptr()));
    }
    // SAFETY: the guard is alive until the end, and what it gives is not destroyed.
    let hal = unsafe { device.as_hal::<Vulkan>() }.ok_or("not a Vulkan device")?;
    let raw = hal.raw_device();
    let instance = hal.shared_instance().raw_instance();
    let extension = ash::ext::external_memory_host::Device::new(instance, raw);
    let pointer = memory.as_ptr().cast_mut().cast::<std::ffi::c_void>();
    let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
    // SAFETY: the extension is enabled (`alignment` checked), and the pointer is
    // to live, aligned memory.
    let answer = unsafe {
        (extension.fp().get_memory_host_pointer_properties_ext)(
            raw.handle(),
            HANDLE,
            pointer,
            &raw mut properties,
        )
    };
    if answer != vk::Result::SUCCESS {
        return Err(format!("the driver does not know the memory: {answer}"));
    }
    let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HANDLE);
    let usage = vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_SRC;
    let create = vk::BufferCreateInfo::default().size(size).usage(usage).push_next(&mut external);
    // SAFETY: a valid description of a buffer, alive during the call.
    let buffer =
        unsafe { raw.create_buffer(&create, None) }.map_err(|e| format!("creating a buffer: {e}"))?;
    // SAFETY: the buffer was just created on this device.
    let needs = unsafe { raw.get_buffer_memory_requirements(buffer) };
    let types = properties.memory_type_bits & needs.memory_type_bits;
    let mut imported = Err("no type of memory fits".to_owned());
    for index in (0..32).filter(|i| types >> i & 1 == 1) {
        let mut import =
            vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HANDLE).host_pointer(pointer);
        let allocate = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(index)
            .push_next(&mut import);
        // SAFETY: the memory is live and aligned, of the stated size, and its
        // type is one that the driver named for this pointer.
        match unsafe { raw.allocate_memory(&allocate, None) } {
            Ok(memory) => {
                imported = Ok(memory);
                break;
            }
            Err(e) => imported = Err(format!("importing {size} bytes: {e}")),
        }
    }
    let bound = imported.and_then(|memory| {
        // SAFETY: both were made above on this device and are not bound yet.
        match unsafe { raw.bind_buffer_memory(buffer, memory, 0) } {
            Ok(()) => Ok(memory),
            Err(e) => {
                // SAFETY: nothing refers to the memory.
                unsafe { raw.free_memory(memory, None) };
                Err(format!("binding: {e}"))
            }
        }
    });
    let memory = match bound {
        Ok(memory) => memory,
        Err(e) => {
            // SAFETY: nothing refers to the buffer.
            unsafe { raw.destroy_buffer(buffer, None) };
            return Err(e);
        }
    };
    // SAFETY: buffer and memory belong together, nobody else keeps them, and
    // they span `size` bytes.
    let owned = unsafe { wgpu::hal::vulkan::Buffer::from_raw_managed(buffer, memory, 0, size) };
    drop(hal);
    let descriptor = wgpu::BufferDescriptor {
        label: Some("mapped file"),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    };
    // SAFETY: made on this device as described; it is initialized, being mapped
    // memory, and not empty.
    Ok(unsafe { device.create_buffer_from_hal::<Vulkan>(owned, &descriptor) })
}
