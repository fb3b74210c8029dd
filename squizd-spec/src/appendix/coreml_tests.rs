use super::*;

const BASE: u64 = 3 * 16384;
const WEIGHTS: Sha = [7; 32];
const FILES: [(&str, &[u8]); 3] = [
    ("m.mlpackage/Manifest.json", b"{}"),
    ("m.mlpackage/Data/com.apple.CoreML/weights/weight.bin", &[1, 2, 3, 4, 5]),
    ("m.mlpackage/Data/com.apple.CoreML/model.mlmodel", b""),
];

fn sample() -> Vec<u8> {
    Package::write(&WEIGHTS, FILES, &Limits::DEFAULT).unwrap()
}

fn verdict(bytes: &[u8]) -> Result<()> {
    Package::parse(bytes, BASE, &Limits::DEFAULT)?.check(&WEIGHTS, &mut |e| Err(e))
}

fn refusal(bytes: &[u8]) -> (&'static str, u64) {
    let e = verdict(bytes).unwrap_err();
    (e.code().0, e.offset())
}

fn refused(at: u64, value: &[u8]) -> (&'static str, u64) {
    let mut bytes = sample();
    let start = (at - BASE) as usize;
    bytes[start..start + value.len()].copy_from_slice(value);
    refusal(&bytes)
}

/// Offset of the zip: head, three entries, paths, padding.
fn zip_at() -> u64 {
    let names: usize = FILES.iter().map(|(n, _)| n.len()).sum();
    BASE + (64 + 3 * 48 + names as u64).next_multiple_of(64)
}

/// Offset of the central directory: three headers, names, contents.
fn central_at() -> u64 {
    let names: usize = FILES.iter().map(|(n, _)| n.len()).sum();
    zip_at() + 3 * 30 + names as u64 + 7
}

#[test]
fn round_trip_and_views() {
    let bytes = sample();
    let p = Package::parse(&bytes, BASE, &Limits::DEFAULT).unwrap();
    p.check(&WEIGHTS, &mut |e| Err(e)).unwrap();
    let paths: Vec<_> = p.files().iter().map(|f| f.path).collect();
    assert_eq!(paths, [FILES[2].0, FILES[1].0, FILES[0].0]);
    assert_eq!(p.files()[1].content, [1, 2, 3, 4, 5]);
    let file = &p.files()[1];
    let start = (file.offset - BASE) as usize;
    assert_eq!(&bytes[start..start + 5], file.content);
    let again =
        Package::write(p.weights_digest(), p.files().iter().map(|f| (f.path, f.content)), &Limits::DEFAULT);
    assert_eq!(again.unwrap(), bytes);
}

#[test]
fn head_and_manifest_are_refused_in_place() {
    assert_eq!(refused(BASE, &[0]), ("appendix-version", BASE));
    assert_eq!(refused(BASE + 3, &[1]), ("appendix-reserved", BASE + 3));
    assert_eq!(refused(BASE + 4, &[0]), ("coreml-empty", BASE + 4));
    assert_eq!(refused(BASE + 4, &[0xff; 4]), ("limit-package-entries", BASE + 4));
    assert_eq!(refused(BASE + 8, &[1]), ("coreml-length", BASE + 8));
    assert_eq!(refused(BASE + 16, &[1]), ("coreml-length", BASE + 16));
    assert_eq!(refused(BASE + 24, &[1]), ("appendix-reserved", BASE + 24));
    assert_eq!(refused(BASE + 32, &[0]), ("coreml-base", BASE + 32));
    assert_eq!(refused(BASE + 64 + 12, &[1]), ("appendix-reserved", BASE + 76));
    assert_eq!(refused(BASE + 64 + 8, &[0xff; 4]), ("coreml-path", BASE + 72));
    assert_eq!(refused(BASE + 64 + 16, &[0xff; 4]).0, "coreml-digest");
    assert_eq!(refused(zip_at() - 1, &[1]), ("appendix-padding", zip_at() - 1));
}

#[test]
fn every_archive_field_is_refused_in_place() {
    for at in 0..30 {
        let (code, offset) = refused(zip_at() + at, &[0xee]);
        if (14..18).contains(&at) {
            // A CRC is compared between the headers, then with the contents.
            assert_eq!((code, offset), ("zip-field", central_at() + 16));
            continue;
        }
        let field = [0u64, 4, 6, 8, 10, 12, 14, 18, 22, 26, 28].iter().rfind(|f| **f <= at).unwrap();
        assert_eq!((code, offset), ("zip-field", zip_at() + field), "local byte {at}");
    }
    for at in 0..46 {
        let (code, offset) = refused(central_at() + at, &[0xee]);
        assert_eq!(code, "zip-field");
        assert!(offset <= central_at() + at && central_at() + at < offset + 4, "central byte {at}: {offset}");
    }
    let end = BASE + sample().len() as u64 - 22;
    for at in 0..22 {
        let (code, offset) = refused(end + at, &[0xee]);
        assert_eq!(code, "zip-field");
        assert!(offset <= end + at && end + at < offset + 4, "end byte {at}: {offset}");
    }
    assert_eq!(refused(zip_at() + 30, b"x"), ("zip-name", zip_at() + 30));
    assert_eq!(refused(central_at() + 46, b"x"), ("zip-name", central_at() + 46));
}

#[test]
fn a_crc_that_both_headers_state_wrongly_is_refused() {
    let mut bytes = sample();
    let local = (zip_at() - BASE) as usize + 14;
    let central = (central_at() - BASE) as usize + 16;
    bytes[local] ^= 1;
    bytes[central] ^= 1;
    assert_eq!(refusal(&bytes), ("coreml-crc", zip_at() + 14));
}

#[test]
fn bad_paths() {
    for path in
        ["../x", "/x", "a//b", "a\\b", "C:/x", "a/..", "a/./b", "a/", "", "a\0b", "\u{e9}", ".hidden", "a b"]
    {
        let e = Package::write(&WEIGHTS, [(path, &b""[..])], &Limits::DEFAULT).unwrap_err();
        assert_eq!((e.code().0, e.offset()), ("coreml-path", 112), "{path:?}");
    }
    let code = |files: &[(&str, &[u8])]| {
        Package::write(&WEIGHTS, files.iter().copied(), &Limits::DEFAULT).unwrap_err().code().0
    };
    assert_eq!(code(&[("a", b""), ("A", b"")]), "coreml-duplicate");
    assert_eq!(code(&[("a", b""), ("a", b"")]), "coreml-duplicate");
    assert_eq!(code(&[("a", b""), ("a/b", b"")]), "coreml-duplicate");
    assert_eq!(code(&[("A", b""), ("a/b", b"")]), "coreml-duplicate");
    assert_eq!(code(&[]), "coreml-empty");
    let order = BASE + 64 + 3 * 48 + FILES[2].0.len() as u64;
    assert_eq!(refused(order, b"a"), ("coreml-order", order));
}

#[test]
fn a_file_that_is_a_folder_is_refused_where_the_longer_path_lies() {
    let files = [("Z", &b""[..]), ("a", b""), ("a/b", b"")];
    let e = Package::write(&WEIGHTS, files, &Limits::DEFAULT).unwrap_err();
    assert_eq!((e.code().0, e.offset()), ("coreml-duplicate", 64 + 3 * 48 + 2));
}

#[test]
fn a_wrong_field_is_shown_beside_the_right_one() {
    let mut bytes = sample();
    bytes[(zip_at() - BASE) as usize + 8] = 8;
    let e = verdict(&bytes).unwrap_err();
    let field = "method is 0x0008, must be 0x0000";
    assert!(e.message().ends_with(field), "{e}");
}

#[test]
fn nested_archives() {
    let mut tar = alloc::vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for content in [&b"PK\x03\x04x"[..], b"\x1f\x8b\x08\0", &tar] {
        let e = Package::write(&WEIGHTS, [("a", content)], &Limits::DEFAULT).unwrap_err();
        assert_eq!(e.code().0, "coreml-nested");
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let bytes = sample();
    for n in 0..bytes.len() {
        assert_eq!(refusal(&bytes[..n]).0, "appendix-truncated", "{n} bytes");
    }
    assert_eq!(refusal(&[&bytes[..], &[0]].concat()).0, "coreml-length");
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = sample();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut b = bytes.clone();
            b[i] ^= 1 << bit;
            assert!(verdict(&b).is_err(), "byte {i} bit {bit}");
        }
    }
}
