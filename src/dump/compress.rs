//! One page in, one page out: the codecs of the kdump-compressed format, each with a context that is used again.

use std::str::FromStr;

use super::fast::Finder;
use super::zstd_page;
use crate::abi::diskdump::{
    DUMP_DH_COMPRESSED_LZO, DUMP_DH_COMPRESSED_SNAPPY, DUMP_DH_COMPRESSED_ZLIB, DUMP_DH_COMPRESSED_ZSTD,
};
use crate::error::{Error, Kind};

/// How pages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1950 streams (`-c`).
    Zlib,
    /// LZO1X streams (`-l`).
    Lzo,
    /// Snappy blocks (`-p`).
    Snappy,
    /// One zstd frame a page (`-z`).
    Zstd,
}

impl Codec {
    /// Every one.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Zlib, Codec::Lzo, Codec::Snappy, Codec::Zstd];

    /// Its bit in the header's status and in a page's flags; 0 for [`Codec::None`].
    pub const fn flag(self) -> u32 {
        match self {
            Codec::None => 0,
            Codec::Zlib => DUMP_DH_COMPRESSED_ZLIB,
            Codec::Lzo => DUMP_DH_COMPRESSED_LZO,
            Codec::Snappy => DUMP_DH_COMPRESSED_SNAPPY,
            Codec::Zstd => DUMP_DH_COMPRESSED_ZSTD,
        }
    }

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Zlib => "zlib",
            Codec::Lzo => "lzo",
            Codec::Snappy => "snappy",
            Codec::Zstd => "zstd",
        }
    }
}

impl FromStr for Codec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::new(Kind::Usage, format!("codec '{text}' is none of {names}"))
        })
    }
}

enum Context {
    None,
    Lzo(Finder),
    Snappy(Finder),
    Zlib(Zlib),
    /// Pages by our own encoder; libzstd's, made when the first one comes, for pages of another size than that is for.
    Zstd(Box<zstd_page::Encoder>, Option<zstd::bulk::Compressor<'static>>),
}

/// libdeflate at two levels: at its fastest, it is twice as fast as zlib and its output a little larger. Pages that hardly
/// get shorter are where the other level saves a tenth for half as much time again, and neighbours are alike: a page is
/// compressed as the one before it would have been best.
struct Zlib {
    fast: libdeflater::Compressor,
    thorough: libdeflater::Compressor,
    /// The last page did not shrink to five eighths.
    hard: bool,
}

impl Zlib {
    fn new() -> Option<Self> {
        let [fast, thorough] = [1, 4].map(|level| libdeflater::CompressionLvl::new(level).ok());
        let [fast, thorough] = [fast?, thorough?].map(libdeflater::Compressor::new);
        Some(Self { fast, thorough, hard: false })
    }

    fn compress(&mut self, page: &[u8], room: &mut [u8]) -> Option<usize> {
        let level = if self.hard { &mut self.thorough } else { &mut self.fast };
        let len = level.zlib_compress(page, room).ok();
        self.hard = len.is_none_or(|len| len >= page.len() * 5 / 8);
        len
    }
}

/// A thread's encoder.
pub struct Encoder {
    context: Context,
    flag: u32,
}

impl Encoder {
    /// An encoder for `codec`; one that can't be made (no memory) stores pages as they are.
    pub fn new(codec: Codec) -> Self {
        let context = match codec {
            Codec::None => Context::None,
            Codec::Zlib => Zlib::new().map_or(Context::None, Context::Zlib),
            Codec::Lzo => Context::Lzo(Finder::default()),
            Codec::Snappy => Context::Snappy(Finder::default()),
            Codec::Zstd => Context::Zstd(Box::default(), None),
        };
        Self { context, flag: codec.flag() }
    }

    /// Appends `page` to `out`, compressed if that makes it smaller; the flags for its descriptor.
    pub fn encode(&mut self, page: &[u8], out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        // A result as large as the page would not be flagged compressed: leave one byte less room.
        out.resize(start + page.len(), 0);
        let room = &mut out[start..start + page.len() - 1];
        let packed = match &mut self.context {
            Context::None => None,
            Context::Lzo(finder) => finder.lzo(page, room),
            Context::Snappy(finder) => finder.snappy(page, room),
            Context::Zlib(zlib) => zlib.compress(page, room),
            Context::Zstd(own, _) if zstd_page::fits(page) => own.encode(page, room),
            Context::Zstd(_, large) => {
                if large.is_none() {
                    *large = zstd::bulk::Compressor::new(1).ok();
                }
                large.as_mut().and_then(|c| c.compress_to_buffer(page, room).ok())
            }
        };
        match packed {
            Some(len) => {
                out.truncate(start + len);
                self.flag
            }
            None => {
                out[start..].copy_from_slice(page);
                0
            }
        }
    }
}

/// Whether all bytes are zero.
pub fn is_zero(page: &[u8]) -> bool {
    // 64 bytes a turn: wide enough for the vector units, short enough to leave early.
    let (blocks, rest) = page.as_chunks::<64>();
    blocks.iter().all(|b| b.iter().fold(0, |a, x| a | x) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    /// Bytes no codec makes smaller.
    fn noise() -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        (0..4096)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    }

    type Decode = fn(&[u8], &mut Vec<u8>, usize) -> Result<(), &'static str>;

    fn decoded(decode: Decode, packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        decode(packed, &mut plain, 4096).expect("decodes");
        plain
    }

    #[test]
    fn case_25_pages_round_trip_and_incompressible_ones_are_stored() {
        let text: Vec<u8> = (0..4096u32).map(|i| (i / 40) as u8).collect();
        for codec in Codec::ALL {
            let mut encoder = Encoder::new(codec);
            let mut out = vec![7; 3];
            let flags = encoder.encode(&text, &mut out);
            assert_eq!(flags, codec.flag());
            let packed = &out[3..];
            let plain = match codec {
                Codec::None => packed.to_vec(),
                Codec::Zlib => miniz_oxide::inflate::decompress_to_vec_zlib(packed).expect("inflates"),
                Codec::Zstd => zstd::bulk::decompress(packed, 4096).expect("decompresses"),
                Codec::Lzo => decoded(codec::lzo::decode, packed),
                Codec::Snappy => decoded(codec::snappy::decode, packed),
            };
            assert_eq!(plain, text);
            assert!(codec == Codec::None || packed.len() < 4096);
            let before = out.len();
            assert_eq!(encoder.encode(&noise(), &mut out), 0, "{codec:?}: a page that does not shrink is stored");
            assert_eq!(out[before..], noise());
        }
    }

    #[test]
    fn one_bit_anywhere_makes_a_page_not_zero() {
        let mut page = [0u8; 4096];
        assert!(is_zero(&page));
        for at in [0, 63, 64, 4095] {
            page[at] = 0x80;
            assert!(!is_zero(&page), "byte {at}");
            page[at] = 0;
        }
    }
}
