//! Places for connections: numbered, reused last in first out, each with a generation that tells its tenants apart.

#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    tenant: Option<T>,
}

/// Generations wrap where tokens wrap.
const GENERATION_MASK: u32 = (1 << 30) - 1;

impl<T> Slab<T> {
    pub fn new() -> Slab<T> {
        Slab { places: Vec::new(), free: Vec::new() }
    }

    /// The place and generation that the next `insert` will use.
    pub fn vacant(&self) -> (u32, u32) {
        match self.free.last() {
            Some(&place) => (place, self.places.get(place as usize).map_or(0, |p| p.generation)),
            None => (self.places.len() as u32, 0),
        }
    }

    pub fn insert(&mut self, tenant: T) -> u32 {
        match self.free.pop() {
            Some(place) => {
                if let Some(slot) = self.places.get_mut(place as usize) {
                    slot.tenant = Some(tenant);
                }
                place
            }
            None => {
                self.places.push(Place { generation: 0, tenant: Some(tenant) });
                self.places.len() as u32 - 1
            }
        }
    }

    pub fn generation(&self, place: u32) -> Option<u32> {
        self.places.get(place as usize).map(|slot| slot.generation)
    }

    pub fn remove(&mut self, place: u32) -> Option<T> {
        let slot = self.places.get_mut(place as usize)?;
        let tenant = slot.tenant.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(place);
        Some(tenant)
    }

    pub fn at(&self, place: u32) -> Option<&T> {
        self.places.get(place as usize)?.tenant.as_ref()
    }

    pub fn at_mut(&mut self, place: u32) -> Option<&mut T> {
        self.places.get_mut(place as usize)?.tenant.as_mut()
    }

    /// The tenant, if it is still the one that `generation` was given for.
    pub fn tenant(&mut self, place: u32, generation: u32) -> Option<&mut T> {
        let slot = self.places.get_mut(place as usize)?;
        if slot.generation == generation { slot.tenant.as_mut() } else { None }
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Places in use, lowest first.
    pub fn taken(&self) -> impl Iterator<Item = u32> + '_ {
        self.places.iter().enumerate().filter(|(_, p)| p.tenant.is_some()).map(|(place, _)| place as u32)
    }
}
