//! What may happen in a state of the world, what comes of it, and what must hold or be met with.

use super::reader::{At, Reader};
use super::tables::{FRONTENDS, Row, Tables, Word};
use super::wanted::ABSENT;
use super::world::{Agent, World, wait_for_all};
use super::writer::Step;
use super::{Event, Mutation, Protocol, SOUND};
use stateright::{Model, Property};

impl Model for Protocol {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let (tables, replacing) = (Tables::new(), !self.others.is_empty());
        let planners = &mut *self.planners();
        let planner = match replacing {
            true => planners.adopt(&tables, 0, true).expect("empty tables are sound"),
            false => planners.fresh(),
        };
        vec![World {
            tables,
            replacing,
            agent: Agent::Running { planner, grace: false, work: None },
            readers: Default::default(),
            right: [ABSENT; FRONTENDS],
            violation: None,
            plans: 0,
            deaths: 0,
        }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        if world.violation.is_some() {
            return;
        }
        let awaited = |r: &Reader| matches!(r, Reader::Running { waited_for: true, .. });
        let waits = world.readers.iter().any(awaited);
        match &world.agent {
            Agent::Starting if waits => {}
            Agent::Starting => events.push(Event::Adopt),
            Agent::Running { work: Some(_), .. } => events.push(Event::Apply),
            Agent::Running { work: None, grace, .. } => {
                if world.plans < self.bounds.plans {
                    events.extend((0..self.wanted.len() as u8).map(Event::Plan));
                }
                if *grace && !waits {
                    events.push(Event::EndGrace);
                }
                if world.replacing && world.plans > 0 {
                    events.push(Event::Attach);
                }
            }
        }
        let busy = world.readers.iter().filter(|reader| **reader != Reader::Idle).count();
        // Of those that are idle, the first stands for all.
        let idle = world.readers.iter().position(|reader| *reader == Reader::Idle);
        // Where nothing is under way, a death comes to the same as one just before the last grace period ended:
        // what is adopted is told by the tables, and by who is counted.
        if matches!(&world.agent, Agent::Running { work, grace, .. } if *grace || work.is_some())
            && world.deaths < self.bounds.deaths
        {
            events.push(Event::Crash);
        }
        for (reader, state) in world.readers.iter().enumerate() {
            match state {
                Reader::Idle if idle != Some(reader) || busy == self.bounds.readers => {}
                Reader::Idle if world.replacing => {
                    let pick = |(id, backend): &(u8, u8)| Event::Other {
                        reader,
                        id: *id,
                        backend: *backend,
                    };
                    events.extend(self.others.iter().map(pick));
                }
                Reader::Idle => {
                    let frontends = 0..FRONTENDS as u8;
                    events.extend(frontends.map(|frontend| Event::Begin { reader, frontend }));
                }
                Reader::Running { at: At::Header { block, .. }, .. } => {
                    let parts = 1..=self.planners().blocks.usable(*block).max(1);
                    events.extend(parts.map(|part| Event::Load { reader, part }));
                }
                Reader::Running { .. } => events.push(Event::Load { reader, part: 0 }),
                Reader::Open { .. } => events.push(Event::Close { reader }),
            }
        }
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut next = world.clone();
        let happened = match event {
            Event::Plan(number) => {
                next.plans += 1;
                self.plan(&mut next, number)
            }
            Event::Apply => self.apply(&mut next),
            Event::EndGrace => self.end_grace(&mut next),
            Event::Crash => {
                next.agent = Agent::Starting;
                next.deaths += 1;
                if self.mutation != Mutation::AdoptWithoutGrace {
                    wait_for_all(&mut next.readers);
                }
                true
            }
            Event::Adopt => self.adopt(&mut next),
            Event::Attach => {
                next.replacing = false;
                true
            }
            Event::Other { reader, id, backend } => {
                self.other(&mut next, reader, id, backend);
                true
            }
            Event::Begin { reader, frontend } => self.begin(&mut next, reader, frontend),
            Event::Load { reader, part } => self.load(&mut next, reader, part),
            Event::Close { reader } => {
                next.readers[reader] = Reader::Idle;
                true
            }
        };
        self.free_ids(&mut next);
        next.tidy();
        happened.then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SOUND, |_, world: &World| world.violation.is_none()),
            Property::sometimes("a connect holds a deleted element", |_, world: &World| {
                world.holds(|tables, at| match at {
                    At::Element { place } => !tables.elements[usize::from(place)].linked,
                    _ => false,
                })
            }),
            Property::sometimes("a connect holds a replaced block", |_, world: &World| {
                world.holds(|tables, at| match at {
                    At::Row { base, .. } => !tables.words.iter().any(
                        |word| matches!(word, Word::Block { base: other, .. } if *other == base),
                    ),
                    _ => false,
                })
            }),
            Property::sometimes("one of two frontends leaves a block", |_, world: &World| {
                world.leaves_shared()
            }),
            Property::sometimes(
                "an insertion waits",
                |_, world: &World| matches!(&world.agent, Agent::Running { work: Some(w), .. } if !w.script.settled),
            ),
            Property::sometimes("an id is given to another", |_, world: &World| {
                matches!(world.agent.step(), Some(Step::ResetBackend { .. }))
            }),
            Property::sometimes("rows are used again", |_, world: &World| {
                matches!(world.agent.step(), Some(Step::Write { base, .. })
                    if world.tables.rows[usize::from(base)] == Row::Freed)
            }),
            Property::sometimes("an index is used again", |_, world: &World| {
                matches!(world.agent.step(), Some(Step::Publish { index, .. })
                    if world.tables.words[usize::from(index)] == Word::Freed)
            }),
            Property::sometimes("an agent dies with readers under way", |_, world: &World| {
                matches!(world.agent, Agent::Starting) && world.holds(|_, _| true)
            }),
            Property::sometimes(
                "another layout's id is given to another",
                |model: &Self, world: &World| {
                    let recalled = |id| model.others.iter().any(|(other, _)| *other == id);
                    matches!(world.agent.step(), Some(Step::ResetBackend { id }) if recalled(id))
                },
            ),
            Property::sometimes("an agent dies while another layout serves", |_, world: &World| {
                matches!(world.agent, Agent::Starting) && world.replacing
            }),
        ]
    }
}
