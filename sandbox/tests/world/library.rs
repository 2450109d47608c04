//! Libraries of the system, opened by name as a program's plug-ins are. Used by `native`, and by the program
//! in `tests/libraries`, which runs the same acts as items of maps.

use std::ffi::{CStr, CString, c_char, c_void};

use crate::ABSENT;

/// A library that is open.
#[derive(Clone, Copy)]
pub(crate) struct Library(*mut c_void);

/// Opens a library of the system.
pub(crate) fn open(name: &str) -> Option<Library> {
    opened(name, libc::RTLD_LOCAL)
}

fn opened(name: &str, flag: i32) -> Option<Library> {
    let name = CString::new(name).expect("no zero byte");
    // SAFETY: libraries of the system, whose constructors are known to be harmless.
    let opened = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | flag) };
    (!opened.is_null()).then_some(Library(opened))
}

/// What an act says that uses this library, or [`ABSENT`].
pub(crate) fn with(name: &str, use_it: fn(Library) -> String) -> String {
    open(name).map_or_else(|| ABSENT.to_owned(), use_it)
}

/// The same for an interpreter, whose modules find its symbols by their names alone.
pub(crate) fn with_modules(name: &str, use_it: impl FnOnce(Library) -> String) -> String {
    opened(name, libc::RTLD_GLOBAL).map_or_else(|| ABSENT.to_owned(), use_it)
}

impl Library {
    /// Looks up a symbol.
    pub(crate) fn find(self, name: &CStr) -> *mut c_void {
        // SAFETY: an open library, and a name that ends with a zero byte.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }
}

/// Binds each function of a library by its name, with its type.
macro_rules! functions {
    ($library:expr; $($name:ident : $kind:ty),+ $(,)?) => {
        $(
            // SAFETY: the type is that of the library's header.
            let $name: $kind = unsafe {
                let name = std::ffi::CString::new(stringify!($name)).expect("no zero byte");
                std::mem::transmute::<*mut std::ffi::c_void, $kind>($library.find(&name))
            };
        )+
    };
}
pub(crate) use functions;

/// A string of C's.
pub(crate) fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return "none".to_owned();
    }
    // SAFETY: a string of the library's, which ends with a zero byte.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}
