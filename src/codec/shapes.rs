//! Shapes of written values, and which of them are known to be read as they were written. Noted by `strict`
//! while it writes; `check` looks at a value of a new shape, and the shape is known from then on.

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

/// Places of the table of known shapes: a power of two.
const PLACES: usize = 1024;

thread_local! {
    /// Shapes that were met lately, each at the place that its key names. 8 KiB, and no destructor: a look
    /// costs a load and a comparison.
    static LATELY: [Cell<u64>; PLACES] = const { [const { Cell::new(0) }; PLACES] };
    /// All known shapes of this thread.
    static KNOWN: RefCell<HashSet<u64>> = RefCell::default();
}

/// Identity of a type, as a number that an optimised program has as a constant.
#[inline]
pub(super) fn of<T: ?Sized>() -> u64 {
    struct Word(u64);

    impl Hasher for Word {
        #[inline]
        fn finish(&self) -> u64 {
            self.0
        }

        #[inline]
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
            }
        }

        #[inline]
        fn write_u64(&mut self, word: u64) {
            self.0 ^= word;
        }
    }

    let mut word = Word(0);
    TypeId::hash(&typeid::of::<T>(), &mut word);
    word.finish()
}

/// Part of a value's structure.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// The value itself.
    Whole,
    Some,
    /// A sequence that is not empty.
    Seq,
    /// A map that is not empty.
    Map,
    /// A tuple, tuple struct or struct of so many elements.
    Fixed(usize),
    UnitVariant(u32),
    NewtypeVariant(u32),
    /// A tuple or struct variant of so many elements.
    FixedVariant(u32, usize),
    /// A number, string or the like, by kind. Noted for JSON, where `untagged` may take one for the other.
    Scalar(u32),
}

impl Part {
    /// Key of this part in a type of identity `of`.
    #[inline]
    pub(super) fn key(self, of: u64) -> u64 {
        let (kind, number) = match self {
            Part::Whole => (1, 0),
            Part::Some => (2, 0),
            Part::Seq => (3, 0),
            Part::Map => (4, 0),
            Part::Fixed(len) => (5, len as u64),
            Part::UnitVariant(index) => (6, u64::from(index)),
            Part::NewtypeVariant(index) => (7, u64::from(index)),
            Part::FixedVariant(index, len) => (8, u64::from(index) | (len as u64) << 32),
            Part::Scalar(kind) => (9, u64::from(kind)),
        };
        // Odd factors lose nothing; the highest bits, which choose the place, depend on all others.
        (of ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93))
            .wrapping_add(kind)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Shapes of one value while it is written.
#[derive(Debug)]
pub(super) struct Shapes {
    /// The type of the whole: a shape is known for one type alone, as a field may be read by another
    /// function than the type's own.
    root: u64,
    new: BTreeSet<u64>,
}

impl Shapes {
    /// For a value of type `T`.
    #[inline]
    pub(super) fn new<T: ?Sized>() -> Self {
        let mut shapes = Shapes { root: of::<T>(), new: BTreeSet::new() };
        shapes.see(Part::Whole.key(0));
        shapes
    }

    /// Notes a part of the value.
    #[inline]
    pub(super) fn see(&mut self, key: u64) {
        let key = key ^ self.root;
        if LATELY.with(|lately| lately[place(key)].get() != key) {
            self.look(key);
        }
    }

    #[cold]
    #[inline(never)]
    fn look(&mut self, key: u64) {
        // A thread that is ending has forgotten all.
        if KNOWN.try_with(|known| known.borrow().contains(&key)).unwrap_or(true) {
            LATELY.with(|lately| lately[place(key)].set(key));
        } else {
            self.new.insert(key);
        }
    }

    /// Whether the value has a shape that is not known yet.
    #[inline]
    pub(super) fn is_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// Whether this part of the value is new; true once for each.
    pub(super) fn take(&mut self, key: u64) -> bool {
        self.new.remove(&(key ^ self.root))
    }

    /// The new shapes again, for another pass.
    pub(super) fn again(&self) -> Self {
        Shapes { root: self.root, new: self.new.clone() }
    }

    /// All shapes of this value are known from here on.
    pub(super) fn learn(self) {
        let _ending = KNOWN.try_with(|known| known.borrow_mut().extend(self.new));
    }
}

#[inline]
fn place(key: u64) -> usize {
    (key >> 54) as usize % PLACES
}
