//! Allocators, and ways to ask the kernel for memory.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::mpsc::channel;
use std::thread;

use crate::library::{Library, functions, with};
use crate::{Act, act};

pub(crate) const ACTS: &[Act] = &[
    act("the C library's arenas, from eight threads", "sum", || {
        let said = churn(libc::malloc, libc::free);
        // SAFETY: gives free memory back.
        unsafe { libc::malloc_trim(0) };
        said
    }),
    act("the C library's settings of its allocator", "1 and 1", || {
        // SAFETY: sets how many arenas there are and from which size on memory is mapped.
        let (arenas, mapped) =
            unsafe { (libc::mallopt(libc::M_ARENA_MAX, 4), libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20)) };
        format!("{arenas} and {mapped}, {}", churn(libc::malloc, libc::free))
    }),
    act("jemalloc", "sum", || churn(tikv_jemalloc_sys::malloc, tikv_jemalloc_sys::free)),
    act("mimalloc", "sum", || {
        with("libmimalloc.so.2", |library| {
            functions!(library; mi_malloc: Allocate, mi_free: Free);
            churn(mi_malloc, mi_free)
        })
    }),
    act("tcmalloc", "sum", || {
        with("libtcmalloc_minimal.so.4", |library| {
            functions!(library; tc_malloc: Allocate, tc_free: Free);
            churn(tc_malloc, tc_free)
        })
    }),
    act("64 GiB of addresses, of which a page is used", "7", addresses),
    act("a vector that grows to 256 MB", "33554432 numbers", || {
        let mut numbers = Vec::new();
        (0..1u64 << 25).for_each(|number| numbers.push(number));
        format!("{} numbers, the last is {:?}", numbers.len(), numbers.last())
    }),
];

pub(crate) const COLLECTOR: &[Act] =
    &[act("a garbage collector with threads (libgc)", "4 threads, all whole", || {
        with("libgc.so.1", collector)
    })];

type Allocate = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

/// Eight threads allocate pieces of many sizes, write to them, and hand each second one on to be freed
/// elsewhere.
fn churn(allocate: Allocate, free: Free) -> String {
    let (give, take) = channel::<usize>();
    let threads: Vec<_> = (0..8u64)
        .map(|seed| {
            let give = give.clone();
            thread::spawn(move || {
                let mut random = seed;
                let mut sum = 0u64;
                for n in 0..4000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let size = 1 + (random >> 40) as usize % if n % 100 == 0 { 300_000 } else { 2000 };
                    // SAFETY: memory of this size, which is freed once.
                    unsafe {
                        let piece = allocate(size);
                        assert!(!piece.is_null());
                        ptr::write_bytes(piece.cast::<u8>(), n as u8, size);
                        sum += u64::from(*piece.cast::<u8>().add(size - 1)) * size as u64;
                        if n % 2 == 0 {
                            free(piece)
                        } else {
                            give.send(piece.expose_provenance()).expect("taken")
                        }
                    }
                }
                sum
            })
        })
        .collect();
    drop(give);
    for piece in take {
        // SAFETY: as above.
        unsafe { free(ptr::with_exposed_provenance_mut(piece)) };
    }
    let sum: u64 = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    format!("sum {sum}")
}

fn addresses() -> String {
    const ALL: usize = 64 << 30;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new addresses, of which a page in the middle is made writable.
    unsafe {
        let begin = libc::mmap(ptr::null_mut(), ALL, libc::PROT_NONE, flags, -1, 0);
        if begin == libc::MAP_FAILED {
            return crate::error(&std::io::Error::last_os_error());
        }
        let page = begin.byte_add(ALL / 2);
        assert_eq!(libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE), 0);
        *page.cast::<u8>() = 7;
        libc::madvise(page, 4096, libc::MADV_HUGEPAGE);
        let said = (*page.cast::<u8>()).to_string();
        libc::munmap(begin, ALL);
        said
    }
}

/// Threads that build lists while their memory is collected again and again.
fn collector(library: Library) -> String {
    #[repr(C)]
    struct Stack([*mut c_void; 4]);
    functions!(library;
        GC_init: unsafe extern "C" fn(),
        GC_allow_register_threads: unsafe extern "C" fn(),
        GC_get_stack_base: unsafe extern "C" fn(*mut Stack) -> c_int,
        GC_register_my_thread: unsafe extern "C" fn(*const Stack) -> c_int,
        GC_unregister_my_thread: unsafe extern "C" fn() -> c_int,
        GC_malloc: unsafe extern "C" fn(usize) -> *mut c_void,
        GC_gcollect: unsafe extern "C" fn(),
        GC_get_gc_no: unsafe extern "C" fn() -> usize,
    );
    /// A node, and the number that it stands for.
    type Node = (*mut c_void, u64);
    let build = move || {
        // SAFETY: as the library's manual says; the nodes are reached from this stack.
        unsafe {
            let mut first: *mut Node = ptr::null_mut();
            for number in 0..20_000u64 {
                let node: *mut Node = GC_malloc(size_of::<Node>()).cast();
                node.write((first.cast(), number));
                first = node;
                let _garbage = GC_malloc(200);
                if number % 10_000 == 0 {
                    GC_gcollect();
                }
            }
            let mut sum = 0;
            while let Some((next, number)) = first.as_ref() {
                (first, sum) = (next.cast(), sum + number);
            }
            sum == 20_000 * 19_999 / 2
        }
    };
    // SAFETY: as above.
    unsafe {
        GC_init();
        GC_allow_register_threads();
    }
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                // SAFETY: the thread is registered while it builds its list.
                unsafe {
                    let mut stack = Stack([ptr::null_mut(); 4]);
                    assert_eq!(GC_get_stack_base(&raw mut stack), 0);
                    GC_register_my_thread(&raw const stack);
                    let whole = build();
                    GC_unregister_my_thread();
                    whole
                }
            })
        })
        .collect();
    let whole = threads.into_iter().map(|thread| thread.join().expect("no panic"));
    let whole = whole.filter(|whole| *whole).count();
    // SAFETY: a number.
    let often = unsafe { GC_get_gc_no() } >= 8;
    format!("4 threads, {}, collected often: {often}", if whole == 4 { "all whole" } else { "broken" })
}
