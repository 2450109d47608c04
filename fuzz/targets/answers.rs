#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fastmap_backends::fuzzing::answers(bytes));
