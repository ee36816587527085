//! A table of things with small numbers, from which one can be taken out while the others are used.

/// Boxes, so that taking one out and putting it back moves a pointer.
pub struct Table<T>(Vec<Option<Box<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Table<T> {
    /// The thing with this number.
    pub fn get(&self, id: u16) -> Option<&T> {
        self.0.get(usize::from(id))?.as_deref()
    }

    /// The thing with this number.
    pub fn get_mut(&mut self, id: u16) -> Option<&mut T> {
        self.0.get_mut(usize::from(id))?.as_deref_mut()
    }

    /// Takes the thing out, so that the others can be reached beside it; [`Table::put`] it back.
    pub fn take(&mut self, id: u16) -> Option<Box<T>> {
        self.0.get_mut(usize::from(id))?.take()
    }

    /// Puts a thing under this number, in place of what was there.
    pub fn put(&mut self, id: u16, thing: Box<T>) {
        let index = usize::from(id);
        if self.0.len() <= index {
            self.0.resize_with(index.saturating_add(1), || None);
        }
        if let Some(place) = self.0.get_mut(index) {
            *place = Some(thing);
        }
    }

    /// All things, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|t| t.as_deref())
    }

    /// All numbers in use, in order; a copy, so that the table can be changed meanwhile.
    pub fn ids(&self) -> Vec<u16> {
        let used = |(i, t): (usize, &Option<Box<T>>)| t.as_ref().and(u16::try_from(i).ok());
        self.0.iter().enumerate().filter_map(used).collect()
    }
}
