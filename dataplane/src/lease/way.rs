//! The ways in which an ask of a lease can go, for tests of whatever must not depend on them.

use proptest::prelude::*;

/// What becomes of an ask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    There,
    Lost,
    AnswerLost,
    Twice,
    Late,
}

pub(crate) fn ways() -> impl Strategy<Value = Way> {
    prop_oneof![
        6 => Just(Way::There),
        1 => Just(Way::Lost),
        1 => Just(Way::AnswerLost),
        1 => Just(Way::Twice),
        1 => Just(Way::Late),
    ]
}
