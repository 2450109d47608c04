//! Identifies a function across two processes of one executable. The host names a descriptor by its distance
//! from an anchor; a worker finds it there and checks it before it calls it. A bare code address would be
//! invalid if a library was loaded elsewhere; a descriptor fails cleanly.

use serde::{Deserialize, Serialize};

use crate::execution::mappings::objects;
use crate::execution::task::Task;
use crate::model::failure::ItemFailure;

/// Creates a worker's task from the encoded context.
pub type Start = fn(&[u8]) -> Result<Box<dyn Task>, ItemFailure>;

const MAGIC: [u64; 2] = [0x7061_6d74_7361_661f, 0x9d3f_5ac1_06b7_e284];

/// Descriptor of one function with its types in the executable. There is one constant for each; its address
/// identifies it.
#[derive(Debug)]
#[repr(C)]
pub struct Descriptor {
    magic: [u64; 2],
    name: fn() -> &'static str,
    start: Start,
}

impl Descriptor {
    /// Describes a function. `name` must distinguish functions that may be folded to one address
    /// (`std::any::type_name` of its types).
    pub const fn new(name: fn() -> &'static str, start: Start) -> Self {
        Descriptor { magic: MAGIC, name, start }
    }

    /// Calls the start function.
    ///
    /// # Errors
    /// As returned by the start function for a context that can't be read or an `init` that panicked.
    pub fn start(&self, context: &[u8]) -> Result<Box<dyn Task>, ItemFailure> {
        (self.start)(context)
    }
}

/// Identifier of a function, as sent to workers. Any value is valid; it is checked when it is resolved.
#[allow(clippy::unsafe_derive_deserialize)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FunctionId {
    /// Distance of the descriptor from this crate's anchor, in bytes.
    pub offset: i64,
    /// The name that its descriptor must have.
    pub name: String,
}

/// The mapped function's name in a descriptor's name, as written in the source: `program::f` for
/// `fastmap::entry::Plain<program::f, u64, u64>`.
///
/// # Examples
///
/// ```
/// use fastmap_backends::mapped_function;
///
/// assert_eq!(mapped_function("fastmap::entry::Plain<program::f, u64, u64>"), "program::f");
/// ```
pub fn mapped_function(name: &str) -> &str {
    let Some((loop_name, types)) = name.split_once('<') else { return name };
    let mut depth = 0;
    let mut parts = types.strip_suffix('>').unwrap_or(types).split(|char| {
        match char {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
        char == ',' && depth == 0
    });
    // For `Init`, the function that creates the state precedes the one that uses it.
    let at = usize::from(loop_name.ends_with("::Init"));
    parts.nth(at).map_or(name, str::trim)
}

/// Has the same distance to each descriptor in every process of this executable.
static ANCHOR: u64 = MAGIC[0];

/// The address of the anchor in this process.
pub(crate) fn anchor() -> usize {
    (&raw const ANCHOR).addr()
}

impl FunctionId {
    /// The identifier of a descriptor of this executable.
    pub fn of(descriptor: &'static Descriptor) -> Self {
        let offset = std::ptr::from_ref(descriptor).expose_provenance().wrapping_sub(anchor());
        FunctionId { offset: offset as i64, name: (descriptor.name)().to_owned() }
    }

    /// Finds the descriptor in this process.
    ///
    /// # Errors
    /// Describes why there is no such descriptor: the executable is another one, or the function is in a
    /// library that was loaded elsewhere.
    pub fn resolve(&self) -> Result<&'static Descriptor, String> {
        let anchor = anchor();
        let address = anchor.wrapping_add(self.offset as usize);
        let program = objects().into_iter().find(|object| object.holds(anchor, 8));
        let inside = program.is_some_and(|object| object.holds(address, size_of::<Descriptor>()));
        if !inside || !address.is_multiple_of(align_of::<Descriptor>()) {
            return Err(format!(
                "the function {} is not part of this executable (does it live in a shared library?)",
                mapped_function(&self.name)
            ));
        }
        let candidate = std::ptr::with_exposed_provenance::<Descriptor>(address);
        // SAFETY: two words at an aligned address inside a readable segment of this program.
        let magic = unsafe { candidate.cast::<[u64; 2]>().read() };
        if magic != MAGIC {
            return Err(format!(
                "nothing in this executable stands where the function {} should be",
                mapped_function(&self.name)
            ));
        }
        // SAFETY: only `Descriptor::new` writes this magic, so this is a descriptor, and it is never
        // modified.
        let descriptor: &'static Descriptor = unsafe { &*candidate };
        let found = (descriptor.name)();
        if found == self.name {
            Ok(descriptor)
        } else {
            Err(format!("the function {} was sought, {found} stands in its place", self.name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> &'static str {
        "one"
    }
    fn start(_: &[u8]) -> Result<Box<dyn Task>, ItemFailure> {
        unreachable!("no test starts it")
    }
    static ONE: Descriptor = Descriptor::new(name, start);

    #[test]
    fn mapped_functions_have_their_source_names() {
        let names = ["x::Plain<a::f, u64, u64>", "x::Init<a::new<(u8, u8)>, a::f<Vec<u8>, u8>, S, T>", "odd"];
        assert_eq!(names.map(mapped_function), ["a::f", "a::f<Vec<u8>, u8>", "odd"]);
        assert_eq!(
            mapped_function("x::Plain<a::run::{{closure}}, alloc::str"),
            "a::run::{{closure}}",
            "cut short"
        );
    }

    #[test]
    fn descriptors_are_found_by_name() {
        let id = FunctionId::of(&ONE);
        assert!(std::ptr::eq(id.resolve().expect("it stands there"), &raw const ONE));
    }

    #[test]
    fn wrong_ids_are_rejected_without_a_call() {
        let id = FunctionId::of(&ONE);
        for offset in [8, -8, 1, 1 << 40, i64::MAX, i64::MIN] {
            let wrong = FunctionId { offset: id.offset.wrapping_add(offset), ..id.clone() };
            assert!(wrong.resolve().is_err(), "{offset}");
        }
        let other = FunctionId { name: "two".to_owned(), ..id };
        assert!(other.resolve().expect_err("another name").contains("one stands in its place"));
    }
}
