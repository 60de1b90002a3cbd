package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"
)

// AddressType is the type of a slice's addresses.
type AddressType uint8

// The address types.
const (
	IPv4 AddressType = iota
	IPv6
	// FQDN addresses are names; deprecated in Kubernetes, and still served.
	FQDN
)

// Endpoint is one address of an endpoint slice. An API endpoint with several addresses is several of these, as DNS
// serves them. It is made when a slice is read; its strings point into the slice and cost nothing.
type Endpoint struct {
	// Addr is the address; it is invalid, and Host set, where the address is a name.
	Addr netip.Addr
	Host string
	// Ready is what DNS serves: the condition, unknown being ready, or true while a removal is held.
	Ready bool
	// Serving and Terminating are the conditions, as the API says they default.
	Serving     bool
	Terminating bool
	// Held is true while the guard keeps serving an endpoint that its source no longer calls ready; Gone, if the source
	// no longer has it at all.
	Held     bool
	Gone     bool
	Hostname string
	NodeName string
	// Zone is the topology zone, as the API has it.
	Zone       string
	TargetName string
	TargetUID  UID
}

// Address is the address as text.
func (e Endpoint) Address() string {
	if e.Addr.IsValid() {
		return e.Addr.String()
	}
	return e.Host
}

// SliceMeta is what an endpoint slice says besides its endpoints.
type SliceMeta struct {
	Namespace string
	Name      string
	// Service is the label kubernetes.io/service-name; empty slices' owners are found by address only.
	Service string
	// Import and Cluster are the labels multicluster.kubernetes.io/service-name and …/source-cluster; empty for slices
	// of this cluster's own services.
	Import      string
	Cluster     string
	Version     uint64
	AddressType AddressType
	Ports       []Port
}

// EndpointSlice is an endpoint slice, its endpoints packed. Make one with NewEndpointSlice.
type EndpointSlice struct {
	SliceMeta
	// Ready and Total count the endpoints that are ready (the held ones included) and all of them.
	Ready int32
	Total int32
	// packed is one record after the other; a string because it cannot change, and parts of it cost nothing.
	packed string
}

// NewEndpointSlice packs a slice. It takes the endpoints' order as it is.
func NewEndpointSlice(meta SliceMeta, endpoints []Endpoint) *EndpointSlice {
	// Most slices are named after their service: share the bytes.
	if strings.HasPrefix(meta.Name, meta.Service) {
		meta.Service = meta.Name[:len(meta.Service)]
	}
	s := &EndpointSlice{SliceMeta: meta, Total: int32(len(endpoints))}
	var b []byte
	for i := range endpoints {
		b = endpoints[i].append(b)
		if endpoints[i].Ready {
			s.Ready++
		}
	}
	s.packed = string(b)
	return s
}

// Endpoints yields the endpoints in the slice's order.
func (o *EndpointSlice) Endpoints() iter.Seq[Endpoint] {
	return func(yield func(Endpoint) bool) {
		rest := o.packed
		var e Endpoint
		for rest != "" {
			var err error
			if rest, err = e.read(rest); err != nil {
				panic("BUG: a packed slice in memory is broken: " + err.Error())
			}
			if !yield(e) {
				return
			}
		}
	}
}

// Packed is the endpoints' packed form, for writing it to disk. A later release may pack differently: whoever keeps it
// keeps PackingVersion beside it.
func (o *EndpointSlice) Packed() string { return o.packed }

// PackingVersion is the version of the packed form.
const PackingVersion = 1

// UnpackEndpointSlice makes a slice from its packed form, which may come from anywhere: it returns an error or a
// slice whose endpoints can be read.
func UnpackEndpointSlice(meta SliceMeta, packed string) (*EndpointSlice, error) {
	s := &EndpointSlice{SliceMeta: meta, packed: packed}
	if strings.HasPrefix(meta.Name, meta.Service) {
		s.Service = meta.Name[:len(meta.Service)]
	}
	var e Endpoint
	for rest := packed; rest != ""; {
		var err error
		if rest, err = e.read(rest); err != nil {
			return nil, fmt.Errorf("endpoint %d of slice %s/%s: %w", s.Total, meta.Namespace, meta.Name, err)
		}
		s.Total++
		if e.Ready {
			s.Ready++
		}
	}
	return s, nil
}

// The record of an endpoint: two bytes of flags, the address (4 or 16 bytes, or a string for a name), the four strings,
// and the 16 bytes of the UID; what is empty is left out. A string is its length as a uvarint and its bytes.
const (
	flagReady = 1 << iota
	flagServing
	flagTerminating
	flagHeld
	flagV4
	flagV6
	flagUID
	flagHostname
	flagNode
	flagZone
	flagTarget
	flagGone
	flagAll = 1<<12 - 1
)

func (e *Endpoint) append(b []byte) []byte {
	var flags uint16
	set := func(on bool, flag uint16) {
		if on {
			flags |= flag
		}
	}
	set(e.Ready, flagReady)
	set(e.Serving, flagServing)
	set(e.Terminating, flagTerminating)
	set(e.Held, flagHeld)
	set(e.Gone, flagGone)
	// An IPv6 address with a zone is no address of the API; as a name it keeps its text.
	set(e.Addr.Is4(), flagV4)
	set(e.Addr.Is6() && e.Addr.Zone() == "", flagV6)
	set(e.TargetUID != UID{}, flagUID)
	set(e.Hostname != "", flagHostname)
	set(e.NodeName != "", flagNode)
	set(e.Zone != "", flagZone)
	set(e.TargetName != "", flagTarget)
	b = binary.LittleEndian.AppendUint16(b, flags)
	switch {
	case flags&flagV4 != 0:
		a := e.Addr.As4()
		b = append(b, a[:]...)
	case flags&flagV6 != 0:
		a := e.Addr.As16()
		b = append(b, a[:]...)
	default:
		b = appendString(b, e.Address())
	}
	for _, s := range []string{e.Hostname, e.NodeName, e.Zone, e.TargetName} {
		if s != "" {
			b = appendString(b, s)
		}
	}
	if flags&flagUID != 0 {
		b = append(b, e.TargetUID[:]...)
	}
	return b
}

var errTruncated = errors.New("the record is cut off")

// read fills e from the first record and returns the rest.
func (e *Endpoint) read(s string) (string, error) {
	*e = Endpoint{}
	if len(s) < 2 {
		return "", errTruncated
	}
	flags := uint16(s[0]) | uint16(s[1])<<8
	if flags&^flagAll != 0 {
		return "", fmt.Errorf("flags %#x are not known", flags&^flagAll)
	}
	s = s[2:]
	e.Ready, e.Serving = flags&flagReady != 0, flags&flagServing != 0
	e.Terminating, e.Held, e.Gone = flags&flagTerminating != 0, flags&flagHeld != 0, flags&flagGone != 0
	var err error
	switch {
	case flags&flagV4 != 0 && flags&flagV6 != 0:
		return "", errors.New("the address is both IPv4 and IPv6")
	case flags&flagV4 != 0:
		if len(s) < 4 {
			return "", errTruncated
		}
		e.Addr, s = netip.AddrFrom4([4]byte{s[0], s[1], s[2], s[3]}), s[4:]
	case flags&flagV6 != 0:
		if len(s) < 16 {
			return "", errTruncated
		}
		var a [16]byte
		copy(a[:], s)
		e.Addr, s = netip.AddrFrom16(a), s[16:]
	default:
		if e.Host, s, err = cutString(s); err != nil {
			return "", err
		}
	}
	// Written out, because every answer about a headless service reads these.
	if flags&flagHostname != 0 {
		if e.Hostname, s, err = cutString(s); err != nil {
			return "", err
		}
	}
	if flags&flagNode != 0 {
		if e.NodeName, s, err = cutString(s); err != nil {
			return "", err
		}
	}
	if flags&flagZone != 0 {
		if e.Zone, s, err = cutString(s); err != nil {
			return "", err
		}
	}
	if flags&flagTarget != 0 {
		if e.TargetName, s, err = cutString(s); err != nil {
			return "", err
		}
	}
	if flags&flagUID == 0 {
		return s, nil
	}
	if len(s) < 16 {
		return "", errTruncated
	}
	copy(e.TargetUID[:], s)
	return s[16:], nil
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func cutString(s string) (string, string, error) {
	if s != "" && s[0] < 0x80 { // nearly all of them
		if n := int(s[0]) + 1; n <= len(s) {
			return s[1:n], s[n:], nil
		}
		return "", "", errTruncated
	}
	var n uint64
	for i := range 5 { // no string of ours needs more than 35 bits of length
		if i >= len(s) {
			return "", "", errTruncated
		}
		n |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			if i > 0 && s[i] == 0 {
				return "", "", errors.New("a length is not in its shortest form")
			}
			s = s[i+1:]
			if n > uint64(len(s)) {
				return "", "", errTruncated
			}
			return s[:n], s[n:], nil
		}
	}
	return "", "", errors.New("a length is too large")
}
