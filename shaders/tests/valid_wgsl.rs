//! Every kernel with every set of flags that it is assembled with passes naga's
//! validation, also where there is no adapter to run it.

use squizd_shaders::variants::cases;
use squizd_shaders::{KERNELS, assemble};

#[test]
fn every_kernel_is_valid() {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let cases = cases();
    for (name, options) in &cases {
        let text = assemble(name, options).unwrap();
        let about = format!("{name} {:?}", options.flags);
        let module = naga::front::wgsl::parse_str(&text)
            .unwrap_or_else(|e| panic!("{about}: {}", e.emit_to_string(&text)));
        Validator::new(ValidationFlags::all(), Capabilities::all())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{about}: {}", e.emit_to_string(&text)));
    }
    for kernel in KERNELS {
        assert!(cases.iter().any(|(name, _)| *name == kernel.name), "{} is not tried", kernel.name);
    }
}
