//! Snapshots of the command line on the hand-assembled golden file.

#[test]
fn snapshots() {
    trycmd::TestCases::new()
        .register_bin("squizd", std::path::Path::new(env!("CARGO_BIN_EXE_squizd")))
        .case("../tests/cli/*.md");
}
