//! The one table of constants that the XDP program, its loader and the build script share.
//!
//! `build.rs` writes it as a C header, so the program and this crate cannot disagree. A test in the
//! `tests` crate compares the parse rules with the constants of the library's own parser.

macro_rules! rules {
    ($($(#[$doc:meta])+ $name:ident = $value:expr;)+) => {
        $($(#[$doc])+ pub const $name: u64 = $value;)+
        /// Every rule by its name in the C header.
        pub const RULES: &[(&str, u64)] = &[$((stringify!($name), $name)),+];
    };
}

rules! {
    /// Protocol version, high nibble of the first byte.
    VERSION = 1;
    /// Frame kind: one sealed symbol.
    KIND_SYMBOL = 1;
    /// Frame kind: sealed control messages.
    KIND_CONTROL = 2;
    /// Frame kind: first handshake message. Kinds from here to [`KIND_LAST`] are not sealed and
    /// belong to the handshake.
    KIND_OFFER = 3;
    /// Highest frame kind.
    KIND_LAST = 6;
    /// Bits of the flags byte that may be set.
    FLAGS_MASK = 7;
    /// Bit of the flags byte: part of a symbol. Symbols only.
    FLAG_PART = 4;
    /// Bytes before the part of a symbol.
    PART_HEAD_LEN = 64;
    /// Bytes of the clear header.
    HEADER_LEN = 24;
    /// Bytes of the tag behind a sealed frame's payload.
    TAG_LEN = 16;
    /// Lanes of a session; lane numbers are below it.
    MAX_LANES = 128;
    /// Data symbols of a slot, at most.
    MAX_DATA_SYMBOLS = 64;
    /// Repair symbols of a slot, at most.
    MAX_REPAIR_SYMBOLS = 32;
    /// Slot classes; class numbers are below it.
    WINDOW_SLOTS = 96;
    /// Every symbol length is a multiple of it.
    SYMBOL_ALIGN = 64;
    /// Longest symbol, bytes.
    MAX_SYMBOL_LEN = 9088;
    /// Longest frame, bytes of UDP payload.
    MAX_FRAME_LEN = MAX_SYMBOL_LEN + HEADER_LEN + TAG_LEN;
    /// IPv6 extension headers (hop-by-hop and destination options) that the program reads over;
    /// a packet with more of them goes to the kernel.
    MAX_EXTENSION_HEADERS = 4;
    /// Source addresses whose handshake rate is remembered; the one longest silent is forgotten.
    MAX_SOURCES = 65_536;
    /// Local addresses that can be named in the loader's options.
    MAX_ADDRESSES = 64;
}

macro_rules! verdicts {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// How many frames met which end, summed over the CPUs.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Verdicts {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl Verdicts {
            /// Names of the verdicts, in the order of the map that counts them.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// The counts with their names.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                Self::NAMES.iter().copied().zip([$(self.$name),+])
            }

            /// Counts read one after the other, in the order of [`Verdicts::NAMES`].
            ///
            /// # Errors
            /// The first error of `read`.
            pub fn read_with<X>(mut read: impl FnMut(u32) -> Result<u64, X>) -> Result<Self, X> {
                let mut index = 0..;
                let mut next = || read(index.next().unwrap_or_default());
                Ok(Self { $($name: next()?,)+ })
            }
        }
    };
}

verdicts! {
    /// Not for the daemon: passed to the kernel.
    passed,
    /// An IP fragment that may carry a frame: passed to the kernel, which reassembles.
    fragment,
    /// A good frame on a queue without socket: passed to the kernel.
    no_socket,
    /// A good frame, handed to the socket of its queue.
    redirected,
    /// A datagram to the daemon's port with another protocol version: dropped.
    foreign,
    /// A datagram to the daemon's port that is no frame: dropped.
    malformed,
    /// A handshake frame of a source that sends too many: dropped.
    rate_limited,
}
