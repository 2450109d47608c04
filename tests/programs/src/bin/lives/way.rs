//! A way to live and end, and what is right for it.

use std::ops::RangeInclusive;

use nix::sys::signal::Signal;

/// The receiver of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Host,
    Group,
    Worker,
}

/// What is done to the program once it has four answers and their lines were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Signal(Whom, Signal),
    /// SIGSTOP, and SIGCONT later.
    Pause(Whom),
    /// All processes stand still in the kernel's freezer for a while.
    Freeze,
    /// Ctrl-Z at its terminal, and a line to the shell that waits for one.
    CtrlZ,
    /// Ctrl-S at its terminal, and Ctrl-Q later.
    CtrlS,
    /// Its terminal is gone.
    Close,
}

/// The program that is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Plain,
    /// Built with `panic = "abort"`.
    Abort,
    /// Built with `-C instrument-coverage`.
    Coverage,
    /// Built as a library.
    Library,
}

/// A number, or one of some.
#[derive(Clone, Debug)]
pub(crate) struct Span(pub(crate) RangeInclusive<u64>);

impl From<u64> for Span {
    fn from(number: u64) -> Self {
        Span(number..=number)
    }
}

impl From<RangeInclusive<u64>> for Span {
    fn from(range: RangeInclusive<u64>) -> Self {
        Span(range)
    }
}

/// The right outcome of a run. Right is, too, that no process is left.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) answered: Span,
    /// Lines of answered items that were not seen.
    pub(crate) lost: Span,
    /// `exit N`, or a signal; several are divided by ` or `.
    pub(crate) end: &'static str,
}

impl Want {
    fn new(answered: impl Into<Span>, lost: impl Into<Span>, end: &'static str) -> Self {
        Want { answered: answered.into(), lost: lost.into(), end }
    }
}

/// A way to live and end.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a property of its own, set by a method of that name"
)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// The variable of that name, see `life.rs`.
    pub(crate) life: &'static str,
    /// What bash runs: `$PROGRAM` is the program, `$DIR` a folder of this run, `$CGROUP` a control group,
    /// `$PROCESSES` how many of its processes are on this machine at least.
    pub(crate) shell: &'static str,
    pub(crate) program: Program,
    pub(crate) terminal: bool,
    pub(crate) act: Option<Act>,
    /// A shell command that fails where this machine lacks something.
    pub(crate) needs: &'static str,
    /// What stderr must contain, without plain `map`.
    pub(crate) says: &'static str,
    /// Whether items may be executed more than once.
    pub(crate) again: bool,
    /// Whether it is played where there is no worker.
    pub(crate) has_plain: bool,
    pub(crate) short: bool,
    pub(crate) plain: Want,
    /// Where it differs from plain `map`, and why that is right.
    pub(crate) ours: Option<(Want, &'static str)>,
    pub(crate) cloud: Option<(Want, &'static str)>,
}

impl Way {
    /// Right is what plain `map` does, and that is to end with all answers, all lines and 0.
    pub(crate) fn new(name: &'static str, life: &'static str, shell: &'static str) -> Self {
        Way {
            name,
            life,
            shell,
            program: Program::Plain,
            terminal: false,
            act: None,
            needs: "",
            says: "",
            again: false,
            has_plain: true,
            short: false,
            plain: Want::new(12, 0, "exit 0"),
            ours: None,
            cloud: None,
        }
    }

    /// One of the cheapest, which are a test.
    pub(crate) fn short(self) -> Self {
        Way { short: true, ..self }
    }

    pub(crate) fn program(self, program: Program) -> Self {
        Way { program, ..self }
    }

    pub(crate) fn act(self, act: Act) -> Self {
        Way { act: Some(act), ..self }
    }

    /// At a terminal that is its session's.
    pub(crate) fn terminal(self, act: Act) -> Self {
        Way { terminal: true, act: Some(act), ..self }
    }

    pub(crate) fn needs(self, needs: &'static str) -> Self {
        Way { needs, ..self }
    }

    pub(crate) fn says(self, says: &'static str) -> Self {
        Way { says, ..self }
    }

    /// It is about a worker, which plain `map` lacks. Items of that worker may be executed again.
    pub(crate) fn of_a_worker(self) -> Self {
        Way { has_plain: false, ..self }.executed_again()
    }

    /// A worker ends in the midst.
    pub(crate) fn executed_again(self) -> Self {
        Way { again: true, ..self }
    }

    /// What plain `map` does.
    pub(crate) fn ends(self, answered: impl Into<Span>, lost: impl Into<Span>, end: &'static str) -> Self {
        Way { plain: Want::new(answered, lost, end), ..self }
    }

    /// What is right otherwise, because it is documented so.
    pub(crate) fn but(
        self,
        answered: impl Into<Span>,
        lost: impl Into<Span>,
        end: &'static str,
        why: &'static str,
    ) -> Self {
        Way { ours: Some((Want::new(answered, lost, end), why)), ..self }
    }

    /// The same, under CLOUD alone.
    pub(crate) fn but_cloud(
        self,
        answered: impl Into<Span>,
        lost: impl Into<Span>,
        end: &'static str,
        why: &'static str,
    ) -> Self {
        Way { cloud: Some((Want::new(answered, lost, end), why)), ..self }
    }
}
