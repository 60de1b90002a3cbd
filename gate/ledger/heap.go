package ledger

// costHeap finds the cheapest entry. Costs only grow, so an entry is not moved when its cost changes, which is on every
// request, but when it comes to the top, which is only when a place is needed: until then it is queued by an older,
// lower cost. The entry at the top whose queued cost is current is the cheapest of all.
type costHeap []*entry

func (h *costHeap) push(e *entry) {
	e.index = len(*h)
	e.queued = e.cost
	*h = append(*h, e)
	h.up(e.index)
}

// takeCheapest returns the cheapest entry, which stays at the top: its place and its cost go to the newcomer, so nothing
// in the heap has to move.
func (h costHeap) takeCheapest() *entry {
	h.cheapest()
	return h[0]
}

// cheapest is the lowest cost in the heap; it brings the entry that has it to the top.
func (h costHeap) cheapest() float64 {
	if len(h) == 0 {
		return 0
	}
	for h[0].queued < h[0].cost {
		h[0].queued = h[0].cost
		h.down(0)
	}
	return h[0].cost
}

func (h costHeap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].queued <= h[i].queued {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h costHeap) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if right := child + 1; right < len(h) && h[right].queued < h[child].queued {
			child = right
		}
		if h[i].queued <= h[child].queued {
			return
		}
		h.swap(i, child)
		i = child
	}
}

func (h costHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
