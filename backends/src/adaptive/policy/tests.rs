//! Single decisions, with their numbers. How they work together is the simulator's to show.

use super::*;
