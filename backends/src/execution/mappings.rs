//! Loaded objects of this process: the address ranges of the program, its build id, and the libraries that it
//! is linked with. Used by `function` (is this address in the program?), by `build_id` (which program is
//! this?) and by `startable`.

use std::ffi::{CStr, c_int, c_void};

/// A loaded object: the executable itself or a shared library.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object {
    /// Readable address ranges.
    pub(crate) readable: Vec<std::ops::Range<usize>>,
    /// The GNU build id, if the linker wrote one.
    pub(crate) build_id: Option<Vec<u8>>,
    /// Its path as found by the loader; empty for the executable.
    pub(crate) name: String,
    /// The name by which others are linked with it (SONAME), if it has one.
    pub(crate) shared_name: Option<String>,
    /// Names of the libraries that it is linked with.
    pub(crate) needed: Vec<String>,
    /// Its program headers, as in its file.
    pub(crate) headers: Vec<u8>,
}

impl Object {
    pub(crate) fn holds(&self, start: usize, length: usize) -> bool {
        let Some(end) = start.checked_add(length) else { return false };
        self.readable.iter().any(|range| range.start <= start && end <= range.end)
    }
}

/// All loaded objects, the executable first.
pub(crate) fn objects() -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    // SAFETY: the callback has the signature that dl_iterate_phdr calls, and `objects` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut objects).cast()) };
    objects
}

unsafe extern "C" fn collect(info: *mut libc::dl_phdr_info, _size: usize, objects: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid info, and `objects` is the vector that `objects()` passes.
    let (info, objects) = unsafe { (&*info, &mut *objects.cast::<Vec<Object>>()) };
    let base = info.dlpi_addr as usize;
    let mut object = Object::default();
    // SAFETY: the name is a string or missing, and dlpi_phdr points to dlpi_phnum program headers.
    unsafe {
        if !info.dlpi_name.is_null() {
            object.name = CStr::from_ptr(info.dlpi_name).to_string_lossy().into_owned();
        }
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        let bytes = std::slice::from_raw_parts(headers.as_ptr().cast::<u8>(), size_of_val(headers));
        object.headers = bytes.to_vec();
    }
    let mut dynamic = None;
    for index in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: dlpi_phdr points to dlpi_phnum program headers.
        let header = unsafe { &*info.dlpi_phdr.add(index) };
        let start = base.wrapping_add(header.p_vaddr as usize);
        match header.p_type {
            libc::PT_LOAD if header.p_flags & libc::PF_R != 0 => {
                object.readable.push(start..start.wrapping_add(header.p_memsz as usize));
            }
            libc::PT_NOTE => {
                // SAFETY: a PT_NOTE segment is inside a loaded, readable one.
                let notes =
                    unsafe { std::slice::from_raw_parts(start as *const u8, header.p_memsz as usize) };
                object.build_id = object.build_id.take().or_else(|| build_id(notes));
            }
            libc::PT_DYNAMIC => dynamic = Some((start, header.p_memsz as usize)),
            _ => {}
        }
    }
    if let Some((start, length)) = dynamic.filter(|(start, length)| object.holds(*start, *length)) {
        // SAFETY: the line above checks that the dynamic section is readable; it consists of pairs of words.
        let entries = unsafe {
            std::slice::from_raw_parts(start as *const [usize; 2], length / size_of::<[usize; 2]>())
        };
        object.read_names(entries, base);
    }
    objects.push(object);
    0
}

/// Kinds of entries of a dynamic section.
const DT_NULL: usize = 0;
const DT_NEEDED: usize = 1;
const DT_STRTAB: usize = 5;
const DT_STRSZ: usize = 10;
const DT_SONAME: usize = 14;

impl Object {
    /// Reads the names from its dynamic section.
    fn read_names(&mut self, entries: &[[usize; 2]], base: usize) {
        let entries = || entries.iter().take_while(|[kind, _]| *kind != DT_NULL);
        let value = |wanted: usize| entries().find(|[kind, _]| *kind == wanted).map(|[_, value]| *value);
        let (Some(table), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else { return };
        // In glibc the table is an absolute address, in musl it is relative to the base.
        let Some(table) =
            [table, base.wrapping_add(table)].into_iter().find(|table| self.holds(*table, size))
        else {
            return;
        };
        // SAFETY: the line above checks that the table of names is readable; it is never written to.
        let table = unsafe { std::slice::from_raw_parts(table as *const u8, size) };
        let name = |at: usize| {
            let name = CStr::from_bytes_until_nul(table.get(at..)?).ok()?;
            Some(name.to_string_lossy().into_owned())
        };
        self.needed =
            entries().filter(|[kind, _]| *kind == DT_NEEDED).filter_map(|[_, at]| name(*at)).collect();
        self.shared_name = value(DT_SONAME).and_then(name);
    }
}

/// Finds the build id among ELF notes. A note is three words (name size, content size, type), the name, and
/// the content.
pub(crate) fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let padded = |size: u32| (size as usize).next_multiple_of(4);
    while notes.len() >= 12 {
        let word = |at: usize| u32::from_ne_bytes(notes[at..at + 4].try_into().expect("four bytes"));
        let (name_size, size, kind) = (word(0), word(4), word(8));
        let content_at = 12 + padded(name_size);
        let content = notes.get(content_at..content_at + size as usize)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0") && !content.is_empty() {
            return Some(content.to_vec());
        }
        notes = notes.get(content_at + padded(size)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_object_is_this_program() {
        static STATIC: u64 = 1;
        let objects = objects();
        assert!(objects[0].holds(&raw const STATIC as usize, 8));
        assert!(!objects[0].holds(8, 8));
        assert!(!objects[0].holds(usize::MAX - 2, 8));
    }

    #[test]
    fn build_id_is_found_after_other_notes() {
        let mut notes = Vec::new();
        for (kind, content) in [(1u32, &b"abcd1234"[..]), (3, &b"\x01\x02\x03\x04\x05"[..])] {
            notes.extend_from_slice(&4u32.to_ne_bytes());
            notes.extend_from_slice(&(content.len() as u32).to_ne_bytes());
            notes.extend_from_slice(&kind.to_ne_bytes());
            notes.extend_from_slice(b"GNU\0");
            notes.extend_from_slice(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(build_id(&notes), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(build_id(&notes[..10]), None);
    }
}
