//! Proof of the publishing protocol: a model of the tables, of connects that read them load by load,
//! and of an agent that may die between any two steps, explored in every order of events: all
//! histories of a few plans and deaths, in small scenes, with tables so small that whatever is freed
//! is soon used again. The agent's part is the real [`Planner`](super::Planner) and its action lists,
//! planned for changes as the loop does it, so the model can't drift from the code.
//!
//! What may happen, in any order: any of some states is desired and planned; the next action is
//! applied; a connect begins, takes its next load, or its socket is closed; a grace period ends,
//! once no connect is under way that was when it began; the agent dies (or a step fails, which comes
//! to the same), and the next one waits for a grace period and adopts what it finds. In a scene where
//! another layout was there before, its programs open sockets under the ids that are recalled, until
//! ours are attached at any time after the first plan. What must hold: a
//! connect ends at a backend (or, where there is none, without one) that was right at some time
//! between its begin and its end; no row changes or is freed under a connect that uses it; no id gets
//! another owner while somebody is counted on it.
//!
//! Wherever two events could be told apart, the less favourable is taken for both: a connect begins
//! with its look-up, a grace period with the last action, and an id that nobody is counted on is free
//! as soon as it may be. Left out: the memory model (a publish is a
//! release store, and each load of a reader depends on the one before); how a hash table is searched
//! while it changes, which the kernel answers for; rows of a block that are written one by one, since
//! a reader that could see half of them could as well see all; the run of another layout's
//! program, whose end is waited for when ours are attached; affinity and sticky UDP, which choose
//! among the rows of the very block. States are told apart by 64 bits of hash. Where rows or ids are
//! short until a grace period has passed, a connect may find nobody; never somebody wrong.

mod events;
mod reader;
mod run;
mod tables;
mod wanted;
mod world;
mod writer;

use reader::{At, Loaded, Reader};
use std::sync::{Mutex, MutexGuard, PoisonError};
use wanted::{ABSENT, Scene, Wanted};
use world::{Agent, Work, World, check, wait_for_all};
use writer::{Planners, Step};

/// The property that must hold; all others say what must be met with on the way.
const SOUND: &str = "no connect goes astray";

/// Connects that may be under way at once.
const READERS: usize = 2;

/// A rule of the protocol that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    /// None.
    Faithful,
    /// Grace periods end at once.
    NoGrace,
    /// Words are stored before the blocks they name.
    PublishBeforeWrite,
    /// Frontends are inserted before their words are stored.
    InsertBeforePublish,
    /// A deleted frontend's index and element are free at once.
    IndexReusedAtOnce,
    /// A replaced block's rows are free at once.
    RowsReusedAtOnce,
    /// A block is retired when the first of the frontends that share it leaves.
    FirstUserRetires,
    /// A backend's id is free although sockets are counted on it.
    IdReusedWhileCounted,
    /// The next agent does not wait before it adopts.
    AdoptWithoutGrace,
    /// What another layout's ids stand for is not recalled.
    RecallForgotten,
    /// A recalled id that nobody is counted on is free, although programs of the other layout may yet
    /// pick it.
    RecalledIdReused,
}

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Violation {
    /// A connect used a word whose index is free.
    FreedIndex,
    /// A connect used a row that is free.
    FreedRow,
    /// A row changed under a connect.
    ChangedRow,
    /// A word led to rows that are not its block.
    NoHeader,
    /// A connect ended where it was right at no time.
    Outcome { frontend: u8, outcome: u8, right: u8 },
    /// An id got another owner while a socket was counted on it.
    IdReused { id: u8 },
    /// A service's id got another owner while a connect counted on it.
    ServiceIdReused { id: u8 },
    /// What an agent left could not be adopted.
    Adoption,
}

/// How far is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bounds {
    /// Connects that are under way, or sockets that are open, at one time.
    readers: usize,
    /// Plans that do something.
    plans: u8,
    /// Deaths of the agent.
    deaths: u8,
}

/// The model: what may be desired, and the planners met so far.
struct Protocol {
    mutation: Mutation,
    bounds: Bounds,
    wanted: Vec<Wanted>,
    /// Ids that programs of another layout pick at first, and the backends that they stand for.
    others: Vec<(u8, u8)>,
    planners: Mutex<Planners>,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Plan(u8),
    Apply,
    EndGrace,
    Crash,
    Adopt,
    Attach,
    Other { reader: usize, id: u8, backend: u8 },
    Begin { reader: usize, frontend: u8 },
    Load { reader: usize, part: u8 },
    Close { reader: usize },
}

// === impl Mutation ===

impl Mutation {
    fn reorder(self, steps: &mut [Step]) {
        // Sorting keeps the order of steps that are alike.
        match self {
            Self::PublishBeforeWrite => steps.sort_by_key(|step| match step {
                Step::ResetBackend { .. } | Step::ResetService { .. } => 0,
                Step::Publish { .. } => 1,
                Step::Write { .. } => 2,
                Step::Insert { .. } => 3,
                Step::Delete { .. } => 4,
            }),
            Self::InsertBeforePublish => steps.sort_by_key(|step| match step {
                Step::ResetBackend { .. } | Step::ResetService { .. } => 0,
                Step::Write { .. } => 1,
                Step::Insert { .. } => 2,
                Step::Publish { .. } => 3,
                Step::Delete { .. } => 4,
            }),
            _ => {}
        }
    }
}

// === impl Protocol ===

impl Protocol {
    fn new(mutation: Mutation, bounds: Bounds, scene: &Scene) -> Self {
        let recalled = match mutation {
            Mutation::RecallForgotten => Default::default(),
            _ => scene.recalled(),
        };
        let planners = Mutex::new(Planners::new(scene.limits, recalled));
        let others = scene.others.to_vec();
        Self { mutation, bounds, wanted: scene.wanted(), others, planners }
    }

    fn planners(&self) -> MutexGuard<'_, Planners> {
        self.planners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many states of the planner there are.
    fn planner_states(&self) -> usize {
        self.planners().count()
    }

    /// Begins a grace period, if none is under way and something waits for one.
    fn start_grace(&self, world: &mut World, planners: &mut Planners) {
        if let Agent::Running { planner, grace, .. } = &mut world.agent
            && !*grace
            && planners.planner(*planner).needs_grace()
        {
            *planner = planners.start_grace(*planner);
            *grace = true;
            if self.mutation != Mutation::NoGrace {
                wait_for_all(&mut world.readers);
            }
        }
    }

    /// The plan has been applied whole.
    fn applied(&self, world: &mut World, planners: &mut Planners, work: &Work) {
        if work.script.settled {
            world.right = self.wanted[usize::from(work.wanted)].outcomes;
        }
        self.start_grace(world, planners);
    }

    fn plan(&self, world: &mut World, number: u8) -> bool {
        let planners = &mut *self.planners();
        let Agent::Running { planner, work: work @ None, .. } = &mut world.agent else {
            return false;
        };
        let wanted = &self.wanted[usize::from(number)];
        let before = *planner;
        let (next, script) = planners.plan(before, number, &self.wanted, self.mutation);
        let begun = Work { wanted: number, script, next: 0 };
        *planner = next;
        let right = world.right;
        if begun.script.steps.is_empty() {
            world.allow(&begun, wanted);
            self.applied(world, planners, &begun);
            return next != before || world.right != right;
        }
        *work = Some(begun.clone());
        world.allow(&begun, wanted);
        true
    }

    fn apply(&self, world: &mut World) -> bool {
        let planners = &mut *self.planners();
        let Agent::Running { work, .. } = &mut world.agent else { return false };
        let Some(mut begun) = work.take() else { return false };
        let step = begun.script.steps[begun.next];
        world.violation = world.violation.or(check(&world.readers, planners, &step));
        begun.next += 1;
        let over = begun.next == begun.script.steps.len();
        world.tables.apply(&step);
        if over {
            self.applied(world, planners, &begun);
        } else if let Agent::Running { work, .. } = &mut world.agent {
            *work = Some(begun);
        }
        true
    }

    fn end_grace(&self, world: &mut World) -> bool {
        let planners = &mut *self.planners();
        match &mut world.agent {
            Agent::Running { planner, grace, work: None } if *grace => {
                *planner = planners.end_grace(*planner);
                *grace = false;
                let (indexes, rows) = planners.held(*planner);
                world.tables.free_others(&indexes, &rows);
                self.start_grace(world, planners);
                true
            }
            _ => false,
        }
    }

    /// Frees what ids may be freed: sooner is less favourable.
    fn free_ids(&self, world: &mut World) {
        if world.replacing && self.mutation != Mutation::RecalledIdReused {
            return;
        }
        let planners = &mut *self.planners();
        let counted = match self.mutation {
            Mutation::IdReusedWhileCounted => 0,
            _ => world.counted(planners),
        };
        if let Agent::Running { planner, work: None, .. } = &mut world.agent {
            *planner = planners.free(*planner, counted);
        }
    }

    fn adopt(&self, world: &mut World) -> bool {
        let planners = &mut *self.planners();
        let counted = world.counted(planners);
        let Some(planner) = planners.adopt(&world.tables, counted, world.replacing) else {
            world.violation = Some(Violation::Adoption);
            return true;
        };
        let (indexes, rows) = planners.held(planner);
        world.tables.free_others(&indexes, &rows);
        world.agent = Agent::Running { planner, grace: false, work: None };
        true
    }

    fn load(&self, world: &mut World, number: usize, part: u8) -> bool {
        let planners = &*self.planners();
        let Reader::Running { frontend, at, allowed, waited_for } = world.readers[number] else {
            return false;
        };
        let ended = |outcome: u8, reader: Reader| {
            let wrong = Violation::Outcome { frontend, outcome, right: allowed };
            if allowed & outcome == 0 { Err(wrong) } else { Ok(reader) }
        };
        let reader = match at.load(&world.tables, &planners.blocks, part) {
            Ok(Loaded::On(at)) => Ok(Reader::Running { frontend, at, allowed, waited_for }),
            Ok(Loaded::Ended(outcome)) => ended(outcome, Reader::Idle),
            Ok(Loaded::Connected { id, backend }) => {
                ended(1 << backend, Reader::Open { id, backend })
            }
            Err(violation) => Err(violation),
        };
        match reader {
            Ok(reader) => world.readers[number] = reader,
            Err(violation) => world.violation = Some(violation),
        }
        true
    }

    /// A program of the other layout sends a socket where the id leads there, and counts it.
    fn other(&self, world: &mut World, number: usize, id: u8, backend: u8) {
        let planners = &*self.planners();
        if world.names_another(&planners.blocks, id, backend) {
            world.violation = Some(Violation::IdReused { id });
        }
        world.readers[number] = Reader::Open { id, backend };
    }

    fn begin(&self, world: &mut World, number: usize, frontend: u8) -> bool {
        let allowed = world.right[usize::from(frontend)];
        match world.tables.find(frontend) {
            Some(place) => {
                let at = At::Element { place };
                world.readers[number] =
                    Reader::Running { frontend, at, allowed, waited_for: false };
                true
            }
            None if allowed & ABSENT != 0 => false,
            None => {
                let (outcome, right) = (ABSENT, allowed);
                world.violation = Some(Violation::Outcome { frontend, outcome, right });
                true
            }
        }
    }
}
