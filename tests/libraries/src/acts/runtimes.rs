//! Runtimes: of tasks, of threads, of other languages, and code that is made as the program runs.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{self, null, null_mut};
use std::sync::Barrier;
use std::thread;

use wasmtime::{Engine, Instance, Module, Store, Trap};

use crate::library::{Library, functions, text, with, with_modules};
use crate::{Act, act, error};

#[path = "../../../cloud/src/bin/acts/runtime.rs"]
mod tokio;

pub(crate) const ACTS: &[Act] = &[
    act("tokio: tasks, timers, signals, a pair of sockets", "8", || tokio::compute((1, 0)).to_string()),
    act("40 threads that wait for each other", "sum 820", threads),
    act("stacker: the stack's limits", "known true", || {
        let known = stacker::remaining_stack().is_some();
        format!("known {known}, {} levels", deep(100_000))
    }),
    act("coroutines (swapcontext)", "[0, 1, 4, 9, 16]", coroutines),
    #[cfg(target_arch = "x86_64")]
    act("code that is made as the program runs", "42", made_code),
    act("libuv: a loop, a timer, work in threads", "3 ticks, 8 done", || with("libuv.so.1", uv)),
    act("GLib: a main loop", "3 ticks", || with("libglib-2.0.so.0", glib)),
    act("Lua", "1,2,3 4950", || with("liblua5.4.so.0", lua)),
    act("Lua with a compiler (LuaJIT)", "4999999950000000 true", || with("libluajit-5.1.so.2", luajit)),
];

pub(crate) const WASM: &[Act] = &[
    act("WebAssembly (wasmtime): memory with data", "wasm, 17 pages", || shown(wasm())),
    act("WebAssembly (wasmtime): traps", "StackOverflow", || shown(traps())),
];

pub(crate) const PERL: &[Act] =
    &[act("Perl with its library", "LATIN SMALL LETTER E WITH ACUTE 3 e9", || {
        with_modules("libperl.so.5.36", perl)
    })];

fn shown(done: wasmtime::Result<String>) -> String {
    done.unwrap_or_else(|why| format!("{why:?}"))
}

fn threads() -> String {
    let barrier = Barrier::new(40);
    let sum: usize = thread::scope(|scope| {
        let barrier = &barrier;
        let begun: Vec<_> = (1..=40)
            .map(|n| {
                scope.spawn(move || {
                    barrier.wait();
                    n
                })
            })
            .collect();
        begun.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    format!("sum {sum}")
}

fn wasm() -> wasmtime::Result<String> {
    let module = r#"(module
        (memory (export "memory") 1)
        (data (i32.const 60000) "wasm")
        (func (export "grow") (param i32) (result i32)
            (drop (memory.grow (local.get 0)))
            (i32.store8 (i32.const 1000000) (i32.const 7))
            (memory.size)))"#;
    let engine = Engine::default();
    let module = Module::new(&engine, module)?;
    let mut said = Vec::new();
    // A second one begins with the same data, copied when it is written to.
    for _ in 0..2 {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let pages = instance.get_typed_func::<i32, i32>(&mut store, "grow")?.call(&mut store, 16)?;
        let mut data = [0; 4];
        let memory = instance.get_memory(&mut store, "memory").expect("it is exported");
        memory.read(&store, 60_000, &mut data)?;
        memory.write(&mut store, 60_000, b"gone")?;
        said.push(format!("{}, {pages} pages", String::from_utf8_lossy(&data)));
    }
    Ok(said.join("; "))
}

fn traps() -> wasmtime::Result<String> {
    let module = r#"(module
        (memory 1)
        (func (export "outside") (drop (i32.load (i32.const 70000))))
        (func (export "unreachable") unreachable)
        (func (export "division") (drop (i32.div_u (i32.const 1) (i32.load (i32.const 0)))))
        (func $deep (export "deep") (call $deep)))"#;
    let engine = Engine::default();
    let module = Module::new(&engine, module)?;
    let mut said = Vec::new();
    for name in ["outside", "unreachable", "division", "deep"] {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let ended = instance.get_typed_func::<(), ()>(&mut store, name)?.call(&mut store, ());
        said.push(match ended {
            Ok(()) => "no trap".to_owned(),
            Err(why) => {
                why.downcast_ref::<Trap>().map_or_else(|| format!("{why:?}"), |trap| format!("{trap:?}"))
            }
        });
    }
    Ok(said.join(" "))
}

/// Calls itself, each time with as much stack as it may need.
fn deep(levels: u32) -> u32 {
    if levels == 0 { 0 } else { stacker::maybe_grow(32 << 10, 1 << 20, || 1 + deep(levels - 1)) }
}

/// A function that is left and entered again five times.
fn coroutines() -> String {
    struct Both {
        caller: libc::ucontext_t,
        callee: libc::ucontext_t,
        value: u64,
    }
    extern "C" fn squares() {
        for n in 0.. {
            // SAFETY: the pointer that is set below, while the caller waits.
            unsafe {
                let both = BOTH.with(std::cell::Cell::get);
                (*both).value = n * n;
                libc::swapcontext(&raw mut (*both).callee, &raw const (*both).caller);
            }
        }
    }
    thread_local! {
        static BOTH: std::cell::Cell<*mut Both> = const { std::cell::Cell::new(null_mut()) };
    }
    let mut stack = vec![0u8; 256 << 10];
    // SAFETY: structures of C's, which are zero before they are filled.
    let mut both: Box<Both> = Box::new(unsafe { std::mem::zeroed() });
    let at = &raw mut *both;
    BOTH.with(|both| both.set(at));
    let mut values = Vec::new();
    // SAFETY: a stack that outlives the callee, which is never entered after this.
    unsafe {
        libc::getcontext(&raw mut (*at).callee);
        (*at).callee.uc_stack.ss_sp = stack.as_mut_ptr().cast();
        (*at).callee.uc_stack.ss_size = stack.len();
        libc::makecontext(&raw mut (*at).callee, squares, 0);
        for _ in 0..5 {
            libc::swapcontext(&raw mut (*at).caller, &raw const (*at).callee);
            values.push((*at).value);
        }
    }
    format!("{values:?}")
}

#[cfg(target_arch = "x86_64")]
fn made_code() -> String {
    // mov eax, 42; ret
    const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a page of our own, which holds a function before it is called.
    unsafe {
        let page = libc::mmap(null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        ptr::copy_nonoverlapping(CODE.as_ptr(), page.cast(), CODE.len());
        if libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            return error(&std::io::Error::last_os_error());
        }
        let function: extern "C" fn() -> i32 = std::mem::transmute(page);
        function().to_string()
    }
}

fn uv(library: Library) -> String {
    type Callback = unsafe extern "C" fn(*mut c_void);
    type After = unsafe extern "C" fn(*mut c_void, c_int);
    type Stop = unsafe extern "C" fn(*mut c_void) -> c_int;
    functions!(library;
        uv_loop_size: unsafe extern "C" fn() -> usize,
        uv_handle_size: unsafe extern "C" fn(c_int) -> usize,
        uv_req_size: unsafe extern "C" fn(c_int) -> usize,
        uv_loop_init: unsafe extern "C" fn(*mut c_void) -> c_int,
        uv_loop_close: unsafe extern "C" fn(*mut c_void) -> c_int,
        uv_timer_init: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        uv_timer_start: unsafe extern "C" fn(*mut c_void, Callback, u64, u64) -> c_int,
        uv_queue_work: unsafe extern "C" fn(*mut c_void, *mut c_void, Callback, After) -> c_int,
        uv_run: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    );
    const TIMER: c_int = 13;
    const WORK: c_int = 7;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static TICKS: AtomicU32 = AtomicU32::new(0);
    static DONE: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn tick(timer: *mut c_void) {
        if TICKS.fetch_add(1, Relaxed) == 2 {
            let library = crate::library::open("libuv.so.1").expect("it is open");
            functions!(library; uv_timer_stop: Stop);
            // SAFETY: the timer that ticks.
            unsafe { uv_timer_stop(timer) };
        }
    }
    unsafe extern "C" fn work(_: *mut c_void) {
        DONE.fetch_add(1, Relaxed);
    }
    unsafe extern "C" fn after(_: *mut c_void, _: c_int) {}
    TICKS.store(0, Relaxed);
    DONE.store(0, Relaxed);
    // Aligned memory that is not given back, for the library may still know of it.
    let room = |bytes: usize| vec![0u128; bytes.div_ceil(16)].leak().as_mut_ptr().cast::<c_void>();
    // SAFETY: as the library's manual says.
    unsafe {
        let events = room(uv_loop_size());
        let timer = room(uv_handle_size(TIMER));
        let begun = uv_loop_init(events);
        uv_timer_init(events, timer);
        uv_timer_start(timer, tick, 1, 1);
        for _ in 0..8 {
            uv_queue_work(events, room(uv_req_size(WORK)), work, after);
        }
        let left = uv_run(events, 0);
        uv_loop_close(events);
        format!("{begun} {left}, {} ticks, {} done", TICKS.load(Relaxed), DONE.load(Relaxed))
    }
}

fn glib(library: Library) -> String {
    type Source = unsafe extern "C" fn(*mut (c_int, *mut c_void)) -> c_int;
    functions!(library;
        g_main_loop_new: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
        g_main_loop_run: unsafe extern "C" fn(*mut c_void),
        g_main_loop_unref: unsafe extern "C" fn(*mut c_void),
        g_timeout_add: unsafe extern "C" fn(u32, Source, *mut (c_int, *mut c_void)) -> u32,
    );
    unsafe extern "C" fn tick(state: *mut (c_int, *mut c_void)) -> c_int {
        // SAFETY: the pair that is given below.
        let state = unsafe { &mut *state };
        state.0 += 1;
        if state.0 == 3 {
            let library = crate::library::open("libglib-2.0.so.0").expect("it is open");
            functions!(library; g_main_loop_quit: unsafe extern "C" fn(*mut c_void));
            // SAFETY: the loop that runs.
            unsafe { g_main_loop_quit(state.1) };
        }
        c_int::from(state.0 < 3)
    }
    // SAFETY: as the library's manual says.
    unsafe {
        let events = g_main_loop_new(null_mut(), 0);
        let mut state = (0, events);
        g_timeout_add(1, tick, &raw mut state);
        g_main_loop_run(events);
        g_main_loop_unref(events);
        format!("{} ticks", state.0)
    }
}

type State = *mut c_void;
type Name = *const c_char;

fn lua(library: Library) -> String {
    functions!(library;
        luaL_newstate: unsafe extern "C" fn() -> State,
        luaL_openlibs: unsafe extern "C" fn(State),
        luaL_loadstring: unsafe extern "C" fn(State, Name) -> c_int,
        lua_pcallk: unsafe extern "C" fn(State, c_int, c_int, c_int, isize, *mut c_void) -> c_int,
        lua_tolstring: unsafe extern "C" fn(State, c_int, *mut usize) -> Name,
    );
    let program = c"
        local numbers, sum = {3, 1, 2}, 0
        table.sort(numbers)
        for _, n in ipairs({1, 2, 3}) do
            local name = os.tmpname()
            assert(io.open(name, 'w')):close()
            os.remove(name)
        end
        for n = 0, 99 do sum = sum + n end
        local ok, time = pcall(os.date, '!%H', 0)
        local none = tostring(pcall(require, 'nothing'))
        return table.concat({table.concat(numbers, ','), sum, time, none}, ' ')";
    // SAFETY: as the library's manual says.
    unsafe {
        let state = luaL_newstate();
        luaL_openlibs(state);
        let code = (luaL_loadstring(state, program.as_ptr()), lua_pcallk(state, 0, 1, 0, 0, null_mut()));
        format!("{code:?} {}", text(lua_tolstring(state, -1, null_mut())))
    }
}

fn luajit(library: Library) -> String {
    functions!(library;
        luaL_newstate: unsafe extern "C" fn() -> State,
        luaL_openlibs: unsafe extern "C" fn(State),
        luaL_loadstring: unsafe extern "C" fn(State, Name) -> c_int,
        lua_pcall: unsafe extern "C" fn(State, c_int, c_int, c_int) -> c_int,
        lua_tolstring: unsafe extern "C" fn(State, c_int, *mut usize) -> Name,
    );
    let program = c"
        local sum = 0LL
        for n = 0, 99999999 do sum = sum + n end
        return tostring(sum):sub(1, -3) .. ' ' .. tostring(jit.status())";
    // SAFETY: as the library's manual says.
    unsafe {
        let state = luaL_newstate();
        luaL_openlibs(state);
        let code = (luaL_loadstring(state, program.as_ptr()), lua_pcall(state, 0, 1, 0));
        format!("{code:?} {}", text(lua_tolstring(state, -1, null_mut())))
    }
}

fn perl(library: Library) -> String {
    functions!(library;
        perl_alloc: unsafe extern "C" fn() -> State,
        perl_construct: unsafe extern "C" fn(State),
        perl_parse: unsafe extern "C" fn(
            State, unsafe extern "C" fn(State), c_int, *const Name, *const Name
        ) -> c_int,
        perl_run: unsafe extern "C" fn(State) -> c_int,
        Perl_sys_init: unsafe extern "C" fn(*mut c_int, *mut *const Name),
        Perl_eval_pv: unsafe extern "C" fn(State, Name, i32) -> *mut c_void,
        Perl_sv_2pv_flags: unsafe extern "C" fn(State, *mut c_void, *mut usize, i32) -> Name,
    );
    unsafe extern "C" fn modules(state: State) {
        let library = crate::library::open("libperl.so.5.36").expect("it is open");
        functions!(library;
            Perl_newXS: unsafe extern "C" fn(State, Name, *mut c_void, Name) -> *mut c_void,
        );
        let loader = library.find(c"boot_DynaLoader");
        // SAFETY: as perlembed says.
        unsafe { Perl_newXS(state, c"DynaLoader::boot_DynaLoader".as_ptr(), loader, c"acts".as_ptr()) };
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    let program = CString::new(
        "join(' ', eval { require charnames; charnames::viacode(0xe9) } // \"no names: $@\",
            eval { require List::Util; List::Util::max(1, 3, 2) } // $@,
            eval { require Encode; unpack('H*', Encode::encode('ISO-8859-1', chr(0xe9))) } // $@,
            eval { require Time::Local; Time::Local::timegm(0, 0, 0, 1, 0, 2000) } // $@)",
    );
    let program = program.expect("no zero byte");
    let arguments = [c"acts".as_ptr(), c"-e".as_ptr(), c"0".as_ptr(), null()];
    // SAFETY: as perlembed says.
    unsafe {
        ONCE.call_once(|| {
            let (mut count, mut given) = (3, arguments.as_ptr());
            Perl_sys_init(&raw mut count, &raw mut given);
        });
        let state = perl_alloc();
        perl_construct(state);
        let code = (perl_parse(state, modules, 3, arguments.as_ptr(), null()), perl_run(state));
        let value = Perl_eval_pv(state, program.as_ptr(), 0);
        format!("{code:?} {}", text(Perl_sv_2pv_flags(state, value, null_mut(), 0)))
    }
}
