#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (squizd_hostile::targets::target("metadata").expect("a target of this build").run)(data));
