package relay

// Load takes the keeper's data now.
func (r *Relay) Load() { r.load() }
