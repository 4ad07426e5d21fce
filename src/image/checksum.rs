//! The CRC-32 that the kernel's build puts behind a bzImage: over setup code and kernel, up to what `syssize` says,
//! its own four bytes included, the remainder is 0 (`arch/x86/boot/tools/build.c` until Linux 6.15; "x86/boot: Drop
//! CRC-32 checksum and the build tool that generates it", 6.16, leaves zeros in its place).
//!
//! The firmware's signature is no concern here; but signing fills in fields of the PE header that the sum saw as zero.

use std::io::{Read, Seek, SeekFrom};

use crate::error::{Error, Kind, Result};

/// Where a PE file keeps its own checksum, from the PE signature on.
const PE_CHECKSUM: usize = 24 + 64;
/// Address and size of the signatures (`IMAGE_DIRECTORY_ENTRY_SECURITY`) in a PE32+ file.
const PE_CERTIFICATES: usize = 24 + 112 + 4 * 8;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// What a sum over a message and its own CRC comes to, in the form zlib gives it: every bit set.
const GOOD: u32 = u32::MAX;

/// Checks `image`: the part of the file that its header announces. `Ok(false)`: it carries no CRC.
///
/// # Errors
/// [`Kind::Invalid`] if the bytes are not those that were built.
pub fn check(image: &[u8]) -> Result<bool> {
    let stored = match image.last_chunk::<4>() {
        None | Some([0, 0, 0, 0]) => return Ok(false),
        Some(bytes) => u32::from_le_bytes(*bytes),
    };
    if sum(image, &signed_fields(image)) == GOOD {
        return Ok(true);
    }
    let text = format!(
        "bzImage is damaged: its bytes do not agree with the CRC {stored:#010x} at their end; copy it again \
         (--no-checks loads it all the same)"
    );
    Err(Error::new(Kind::Invalid, text))
}

/// Whether the first bytes of `file`, as many as `image` has, are what was built, without keeping them: of `image`
/// itself only the header is looked at. `false` may also be a signature's header in an unusual place.
///
/// # Errors
/// What reading says.
pub fn is_good(image: &[u8], file: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    let len = u64::try_from(image.len()).unwrap_or(u64::MAX);
    let mut last = [0; 4];
    file.seek(SeekFrom::Start(len.saturating_sub(4)))?;
    file.read_exact(&mut last)?;
    if last == [0; 4] {
        return Ok(true);
    }
    file.rewind()?;
    let (mut crc, mut buffer, mut done) = (libdeflater::Crc::new(), vec![0; CHUNK], 0usize);
    let blank = signed_fields(image);
    while done < image.len() {
        let chunk = buffer.get_mut(..image.len().saturating_sub(done).min(CHUNK)).unwrap_or_default();
        file.read_exact(chunk)?;
        for at in blank.iter().flat_map(|(at, len)| *at..at.saturating_add(*len)) {
            if let Some(byte) = at.checked_sub(done).and_then(|at| chunk.get_mut(at)) {
                *byte = 0;
            }
        }
        crc.update(chunk);
        done = done.saturating_add(chunk.len());
    }
    Ok(crc.sum() == GOOD)
}

/// The CRC of `image` with zeros in the places `blank` (offset, bytes), ascending.
fn sum(image: &[u8], blank: &[(usize, usize)]) -> u32 {
    let mut crc = libdeflater::Crc::new();
    let mut done = 0;
    for (at, len) in blank {
        crc.update(image.get(done..*at).unwrap_or_default());
        crc.update([0; 8].get(..*len).unwrap_or_default());
        done = at.saturating_add(*len);
    }
    crc.update(image.get(done..).unwrap_or_default());
    crc.sum()
}

/// The fields that signing changes, if the image is an EFI program too.
fn signed_fields(image: &[u8]) -> Vec<(usize, usize)> {
    let header = image.get(0x3c..0x40).and_then(|b| Some(u32::from_le_bytes(b.try_into().ok()?)));
    let pe = header.and_then(|at| usize::try_from(at).ok()).filter(|_| image.starts_with(b"MZ"));
    let fields = pe.and_then(|pe| {
        image.get(pe..)?.starts_with(b"PE\0\0").then_some(())?;
        let (checksum, certificates) = (pe.checked_add(PE_CHECKSUM)?, pe.checked_add(PE_CERTIFICATES)?);
        image.get(certificates..certificates.checked_add(8)?)?;
        Some(vec![(checksum, 4), (certificates, 8)])
    });
    fields.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 KiB with a PE header at 0x40 and a CRC at the end, as the build leaves it.
    fn built() -> Vec<u8> {
        let mut image: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        image[..2].copy_from_slice(b"MZ");
        image[0x3c..0x44].copy_from_slice(b"\x40\0\0\0PE\0\0");
        image[0x40 + PE_CHECKSUM..][..4].fill(0);
        image[0x40 + PE_CERTIFICATES..][..8].fill(0);
        // The build stores the remainder itself; zlib's form is its complement.
        let crc = !libdeflater::crc32(&image[..4092]);
        image[4092..].copy_from_slice(&crc.to_le_bytes());
        image
    }

    #[test]
    fn built_and_signed_images_pass_and_a_changed_bit_does_not() {
        let mut image = built();
        assert!(check(&image).expect("good"));
        image[0x40 + PE_CHECKSUM] = 0x77;
        image[0x40 + PE_CERTIFICATES + 1] = 0xd2;
        assert!(check(&image).expect("signed"));
        for at in [5, 0x208, 3000, 4095] {
            let mut damaged = image.clone();
            damaged[at] ^= 0x10;
            let e = check(&damaged).expect_err("damaged").to_string();
            assert!(e.contains("do not agree with the CRC 0x"), "{at}: {e}");
        }
    }

    #[test]
    fn a_file_read_in_chunks_is_judged_as_in_memory() {
        let mut image = built();
        image.truncate(4092);
        image.resize(3 * CHUNK + 5, 0x5a);
        let crc = !libdeflater::crc32(&image);
        image.extend(crc.to_le_bytes());
        image[0x40 + PE_CHECKSUM] = 0x77;
        image[0x40 + PE_CERTIFICATES + 1] = 0xd2;
        assert!(check(&image).expect("good"));
        let mut known = vec![0; image.len()];
        known[..4096].copy_from_slice(&image[..4096]);
        let good = |file: &[u8]| is_good(&known, &mut std::io::Cursor::new(file));
        let longer = [&image[..], b"signature"].concat();
        assert!(good(&image).expect("read") && good(&longer).expect("read"));
        for at in [5, CHUNK - 1, CHUNK, 3 * CHUNK + 8] {
            let mut damaged = image.clone();
            damaged[at] ^= 0x10;
            assert!(!good(&damaged).expect("read"), "{at}");
        }
        assert!(good(&image[..image.len() - 1]).is_err(), "cut while it is read");
        let end = image.len() - 4;
        image[end..].fill(0);
        assert!(is_good(&known, &mut std::io::Cursor::new(&image)).expect("no crc"));
    }

    #[test]
    fn without_a_crc_nothing_is_claimed() {
        let mut image = built();
        image[4092..].fill(0);
        assert!(!check(&image).expect("no crc"));
        assert!(!check(b"abc").expect("too short"));
    }

    #[test]
    fn a_pe_offset_outside_the_file_is_no_pe_header() {
        for at in [u32::MAX, 4090, 0] {
            let mut image = built();
            image[0x3c..0x40].copy_from_slice(&at.to_le_bytes());
            assert_eq!(signed_fields(&image), []);
        }
    }
}
