//! Pages that hardly shrink, or don't: what a codec makes of them, page by page and in a dump.

mod support;

use kdumpbox::codec::{lzo, snappy};
use kdumpbox::dump::compress::Encoder;
use kdumpbox::dump::{self, Codec, Request};
use kdumpbox::vmcore::{PhysMem, Vmcore};
use support::faults::{Memory, bytes};
use support::kernel::{Kernel, V6_12};
use support::machine::PAGE;

const PAGE_BYTES: usize = PAGE as usize;

/// Bytes of `letters` values without a pattern.
fn noise(seed: u64, letters: u64) -> impl Iterator<Item = u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) % letters
    })
    .map(|letter| letter as u8)
}

/// A page of noise that ends with `zeros` zeros.
fn page(seed: u64, letters: u64, zeros: usize) -> Vec<u8> {
    let mut page: Vec<u8> = noise(seed, letters).take(PAGE_BYTES - zeros).collect();
    page.resize(PAGE_BYTES, 0);
    page
}

fn unpack(codec: Codec, packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match codec {
        Codec::None => out = packed.to_vec(),
        Codec::Zlib => out = miniz_oxide::inflate::decompress_to_vec_zlib(packed).expect("zlib"),
        Codec::Zstd => out = zstd::bulk::decompress(packed, PAGE_BYTES).expect("zstd"),
        Codec::Lzo => lzo::decode(packed, &mut out, PAGE_BYTES).expect("lzo"),
        Codec::Snappy => snappy::decode(packed, &mut out, PAGE_BYTES).expect("snappy"),
    }
    out
}

/// Pages around the border where packing gains nothing any more, of every codec.
fn at_the_border(codec: Codec) -> Vec<(Vec<u8>, usize, u32)> {
    let mut encoder = Encoder::new(codec);
    let mut found = Vec::new();
    for (seed, letters) in [(1, 256), (2, 256), (3, 256), (4, 255), (5, 254), (6, 252)] {
        for zeros in 0..120 {
            let page = page(0x9e37_79b9 * seed, letters, zeros);
            let mut out = b"in front".to_vec();
            let flags = encoder.encode(&page, &mut out);
            assert!(out.starts_with(b"in front"));
            let packed = out.split_off(8);
            let context = format!("{codec:?}, {letters} letters, {zeros} zeros: {} bytes", packed.len());
            assert_eq!(flags != 0, packed.len() < PAGE_BYTES, "{context}");
            assert!(packed.len() <= PAGE_BYTES && (flags == 0 || flags == codec.flag()), "{context}");
            let back = if flags == 0 { packed.clone() } else { unpack(codec, &packed) };
            assert!(back == page, "{context}");
            found.push((page, packed.len(), flags));
        }
    }
    found
}

#[test]
fn case_25_a_page_one_byte_smaller_is_packed_and_one_as_large_is_not() {
    for codec in Codec::ALL {
        let found = at_the_border(codec);
        let sizes = |wanted: usize| found.iter().filter(|(_, size, _)| *size == wanted).count();
        assert!(sizes(PAGE_BYTES) > 0, "{codec:?} makes every page smaller");
        let largest = found.iter().filter(|(.., flags)| *flags != 0).map(|(_, size, _)| *size).max();
        match codec {
            Codec::None => assert_eq!(largest, None),
            Codec::Zlib => assert_eq!(largest, Some(PAGE_BYTES - 1)),
            // The others give up a little earlier.
            _ => assert!(largest.is_some_and(|size| size > PAGE_BYTES - 128), "{codec:?}: {largest:?}"),
        }
    }
}

#[test]
fn case_25_a_codec_that_runs_out_of_room_in_the_middle_of_a_page_leaves_it_as_it_is() {
    for codec in Codec::ALL {
        let mut encoder = Encoder::new(codec);
        // Its failure leaves nothing behind for the pages that follow.
        for (number, letters) in [256, 2, 256, 256, 3, 256, 1].into_iter().enumerate() {
            let page = page(number as u64 + 77, letters, 0);
            let mut out = Vec::new();
            let flags = encoder.encode(&page, &mut out);
            let context = format!("{codec:?}, page {number}");
            if letters == 256 || codec == Codec::None {
                assert!(flags == 0 && out == page, "{context}");
            } else {
                assert!(flags == codec.flag() && out.len() < PAGE_BYTES && unpack(codec, &out) == page, "{context}");
            }
        }
    }
}

#[test]
fn case_25_such_pages_come_back_out_of_a_dump() {
    let mut kernel = Kernel::new(V6_12, 4);
    let mut pages = Vec::new();
    for codec in Codec::ALL {
        let border = at_the_border(codec).into_iter().filter(|(_, size, _)| (PAGE_BYTES - 2..).contains(size));
        pages.extend(border.map(|(page, ..)| page).take(40));
    }
    let first = 0x1100;
    for (pfn, page) in (first..).zip(&pages) {
        kernel.memory.set_page(pfn, page.clone());
    }
    let core = Vmcore::from_input(Box::new(bytes(&kernel.core()))).expect("a vmcore");
    for codec in Codec::ALL {
        let sink = Memory::default();
        let report = dump::save(&core, &Request { codec, threads: 2, ..Request::default() }, &sink, &|_| {});
        assert_eq!(report.expect("saved").incomplete, None);
        let dump = Vmcore::from_input(Box::new(sink.into_bytes())).expect("a dump");
        let reader = dump.reader();
        for (pfn, page) in (first..).zip(&pages) {
            let mut found = vec![0; PAGE_BYTES];
            reader.read(kdumpbox::mem::PhysAddr(pfn * PAGE), &mut found).expect("read");
            assert!(found == *page, "{codec:?}: {pfn:#x}");
        }
    }
}
