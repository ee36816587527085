//! Deaths in play: a device that stops between two stores of a publication, for tests.

use std::cell::RefCell;

/// What is left of a device's life.
struct Life {
    /// Stores it will still make.
    left: usize,
    died: bool,
    /// What the driver does before each store.
    look: Box<dyn FnMut()>,
}

thread_local! {
    static LIFE: RefCell<Option<Life>> = const { RefCell::new(None) };
}

/// Lets a device of this thread do something and die after so many stores, with the driver looking
/// before each. Whether it came to that.
pub(crate) fn dying(left: usize, look: impl FnMut() + 'static, act: impl FnOnce()) -> bool {
    LIFE.set(Some(Life { left, died: false, look: Box::new(look) }));
    act();
    LIFE.take().is_some_and(|life| life.died)
}

/// Whether the device is dead by now: the store that is to come is not made.
pub(super) fn is_dead() -> bool {
    LIFE.with_borrow_mut(|life| {
        let Some(life) = life else { return false };
        if !life.died {
            (life.look)();
            life.died = life.left == 0;
            life.left = life.left.saturating_sub(1);
        }
        life.died
    })
}
