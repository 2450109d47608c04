//! A value without bytes that only its own module makes: a worker must not forge another one.

struct Permit(());

fn main() {
    let config = fastmap::init(fastmap::Options::new()).unwrap();
    let permit = Permit(());
    let guarded = move |n: u64| {
        let Permit(()) = &permit;
        n
    };
    let _ = config.fastmap(guarded, 0..3);
}
