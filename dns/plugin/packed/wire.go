package packed

import "encoding/binary"

const (
	headerSize = 12
	// maxQuery is the longest query that is looked up: a header, a name of 255 bytes, type and class, an OPT without options.
	maxQuery = headerSize + 255 + 4 + 11

	typeA    = 1
	typeSOA  = 6
	typeAAAA = 28
	typeOPT  = 41
	classIN  = 1
)

// plain says whether the query is one whose answer depends on nothing but its bytes and the cluster's data: a standard
// query with one uncompressed question of class IN, and at most an OPT without options. A cookie, a client subnet or a
// signature makes a query one of its kind; keeping its answer would only fill the table.
//
// It reads bytes from strangers, and must neither crash nor loop on any.
func plain(query []byte) bool {
	if len(query) < headerSize || len(query) > maxQuery {
		return false
	}
	const response, opcode, truncated = 0x80, 0x78, 0x02
	if query[2]&(response|opcode|truncated) != 0 || query[3]&0x0f != 0 {
		return false
	}
	counts := query[4:headerSize]
	extra := counts[7]
	if binary.BigEndian.Uint32(counts) != 1<<16 || counts[4] != 0 || counts[5] != 0 || counts[6] != 0 || extra > 1 {
		return false
	}
	end, ok := nameEnd(query, headerSize)
	if !ok || end+4 > len(query) || binary.BigEndian.Uint16(query[end+2:]) != classIN {
		return false
	}
	rest := query[end+4:]
	if extra == 0 {
		return len(rest) == 0
	}
	// An OPT without options: root, type, size, extended code, version 0, flags, length 0.
	return len(rest) == 11 && rest[0] == 0 && binary.BigEndian.Uint16(rest[1:]) == typeOPT && rest[5] == 0 && rest[6] == 0 &&
		rest[9] == 0 && rest[10] == 0
}

// nameEnd returns where the uncompressed name that begins at off ends.
func nameEnd(msg []byte, off int) (int, bool) {
	for length := 0; off < len(msg); {
		label := int(msg[off])
		if label > 63 {
			return 0, false
		}
		off += 1 + label
		if length += 1 + label; length > 255 {
			return 0, false
		}
		if label == 0 {
			return off, true
		}
	}
	return 0, false
}

// skipName returns where a name of a record ends. position reports that the name points at nothing but the question, so
// that the record may be moved.
func skipName(msg []byte, off int) (end int, movable, ok bool) {
	for off < len(msg) {
		switch label := msg[off]; {
		case label == 0:
			return off + 1, true, true
		case label >= 0xc0:
			if off+2 > len(msg) {
				return 0, false, false
			}
			target := int(binary.BigEndian.Uint16(msg[off:]) & 0x3fff)
			questionEnd, ok := nameEnd(msg, headerSize)
			return off + 2, ok && target < questionEnd, true
		case label > 63:
			return 0, false, false
		default:
			off += 1 + int(label)
		}
	}
	return 0, false, false
}

// layout is what of a packed answer changes from one use to the next.
type layout struct {
	serials []int // offsets of the serials of its SOAs
	blocks  []block
}

// block is a run of address records of one section: ends[i] is where record i ends.
type block struct {
	start int
	ends  []int
}

// layoutOf reads an answer that this process packed. Movable says that the records of its blocks may change places. It
// is not ok if the message is not whole.
func layoutOf(msg []byte) (l layout, movable, ok bool) {
	if len(msg) < headerSize {
		return layout{}, false, false
	}
	off, ok := nameEnd(msg, headerSize)
	if !ok || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return layout{}, false, false
	}
	off += 4
	movable = true
	for section := range 3 {
		var current block
		for range binary.BigEndian.Uint16(msg[6+2*section:]) {
			start := off
			name, move, ok := skipName(msg, off)
			if !ok || name+10 > len(msg) {
				return layout{}, false, false
			}
			kind := binary.BigEndian.Uint16(msg[name:])
			off = name + 10 + int(binary.BigEndian.Uint16(msg[name+8:]))
			if off > len(msg) {
				return layout{}, false, false
			}
			switch kind {
			case typeA, typeAAAA:
				if len(current.ends) == 0 {
					current.start = start
				} else if current.ends[len(current.ends)-1] != start {
					movable = false // something stands between
				}
				movable = movable && move
				current.ends = append(current.ends, off)
			case typeSOA:
				if off-name-10 < 20 {
					return layout{}, false, false
				}
				l.serials = append(l.serials, off-20)
			}
		}
		if len(current.ends) > 1 {
			l.blocks = append(l.blocks, current)
		}
	}
	return l, movable || len(l.blocks) == 0, off == len(msg)
}
