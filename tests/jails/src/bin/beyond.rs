//! A program whose workers greet with a channel that they don't bring.

fn main() {
    fastmap_test_jails::raw::enter(fastmap_test_jails::raw::Greet::Beyond);
}
