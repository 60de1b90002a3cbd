package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/seakeep/seakeep/dns/store"
)

// A record is the fields of an object in their order: numbers as uvarints, strings and lists with their length in
// front. The endpoints of a slice are its packed form, to the record's end.

func appendObject(b []byte, o store.Object) []byte {
	switch o := o.(type) {
	case *store.Namespace:
		b = appendText(b, o.Name)
		return binary.AppendUvarint(b, o.Version)
	case *store.Service:
		b = appendNames(b, o.Namespace, o.Name, o.Version)
		headless := byte(0)
		if o.Headless {
			headless = 1
		}
		b = append(b, byte(o.Type), headless)
		b = appendAddrs(b, o.ClusterIPs)
		b = appendText(b, o.ExternalName)
		b = binary.AppendUvarint(b, uint64(len(o.ExternalIPs)))
		for _, ip := range o.ExternalIPs {
			b = appendText(b, ip)
		}
		return appendPorts(b, o.Ports)
	case *store.EndpointSlice:
		b = appendNames(b, o.Namespace, o.Name, o.Version)
		b = appendText(b, o.Service)
		b = appendText(b, o.Import)
		b = appendText(b, o.Cluster)
		b = append(b, byte(o.AddressType))
		b = appendPorts(b, o.Ports)
		return append(b, o.Packed()...)
	case *store.ServiceImport:
		b = appendNames(b, o.Namespace, o.Name, o.Version)
		b = append(b, byte(o.Type))
		b = appendAddrs(b, o.IPs)
		return appendPorts(b, o.Ports)
	case *store.Pod:
		b = appendNames(b, o.Namespace, o.Name, o.Version)
		b = appendAddrs(b, o.IPs)
		b = binary.AppendUvarint(b, uint64(len(o.Labels)))
		for _, l := range o.Labels {
			b = appendText(appendText(b, l.Key), l.Value)
		}
		return b
	}
	panic(fmt.Sprintf("BUG: no record for %T", o))
}

func appendNames(b []byte, namespace, name string, version uint64) []byte {
	return binary.AppendUvarint(appendText(appendText(b, namespace), name), version)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendAddrs(b []byte, addrs []netip.Addr) []byte {
	b = binary.AppendUvarint(b, uint64(len(addrs)))
	for _, a := range addrs {
		raw := a.AsSlice()
		b = append(append(b, byte(len(raw))), raw...)
	}
	return b
}

func appendPorts(b []byte, ports []store.Port) []byte {
	b = binary.AppendUvarint(b, uint64(len(ports)))
	for _, p := range ports {
		b = appendText(appendText(b, p.Name), p.Protocol)
		b = binary.AppendVarint(b, int64(p.Number))
	}
	return b
}

// readObject reads a record. The object's strings point into it, so that an object costs one allocation for them all;
// those that many objects share are interned.
func readObject(kind store.Kind, record string) (store.Object, error) {
	r := reader{rest: record}
	var o store.Object
	switch kind {
	case store.Namespaces:
		o = &store.Namespace{Name: r.text(), Version: r.uvarint()}
	case store.Services:
		s := &store.Service{Namespace: r.shared(), Name: r.text(), Version: r.uvarint()}
		s.Type = store.ServiceType(r.byteUpTo(byte(store.ExternalName)))
		s.Headless = r.byteUpTo(1) == 1
		s.ClusterIPs = r.addrs()
		s.ExternalName = r.text()
		for range r.length() {
			s.ExternalIPs = append(s.ExternalIPs, r.text())
		}
		s.Ports = r.ports()
		o = s
	case store.EndpointSlices:
		return r.slice()
	case store.ServiceImports:
		s := &store.ServiceImport{Namespace: r.shared(), Name: r.text(), Version: r.uvarint()}
		s.Type = store.ImportType(r.byteUpTo(byte(store.HeadlessImport)))
		s.IPs = r.addrs()
		s.Ports = r.ports()
		o = s
	case store.Pods:
		p := &store.Pod{Namespace: r.shared(), Name: r.text(), Version: r.uvarint()}
		p.IPs = r.addrs()
		for range r.length() {
			p.Labels = append(p.Labels, store.Label{Key: r.shared(), Value: r.text()})
		}
		o = p
	default:
		return nil, fmt.Errorf("kind %d is not known", kind)
	}
	if r.err == nil && r.rest != "" {
		r.err = fmt.Errorf("%d bytes are left over", len(r.rest))
	}
	if r.err == nil && o.Key().Name == "" {
		r.err = errors.New("it has no name")
	}
	return o, r.err
}

func (r *reader) slice() (store.Object, error) {
	meta := store.SliceMeta{Namespace: r.shared(), Name: r.text(), Version: r.uvarint()}
	meta.Service, meta.Import, meta.Cluster = r.text(), r.text(), r.text()
	meta.AddressType = store.AddressType(r.byteUpTo(byte(store.FQDN)))
	meta.Ports = r.ports()
	if r.err == nil && meta.Name == "" {
		r.err = errors.New("it has no name")
	}
	if r.err != nil {
		return nil, r.err
	}
	s, err := store.UnpackEndpointSlice(meta, r.rest)
	if err != nil {
		return nil, err // not a nil *EndpointSlice in an interface
	}
	return s, nil
}

// reader cuts fields off a record; after an error it returns zero values.
type reader struct {
	rest string
	err  error
}

var errShort = errors.New("it is cut off")

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = ""
}

func (r *reader) uvarint() uint64 {
	var n uint64
	for i := 0; i < len(r.rest) && i < binary.MaxVarintLen64; i++ {
		c := r.rest[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			break
		}
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.rest = r.rest[i+1:]
			return n
		}
	}
	r.fail(errShort)
	return 0
}

// length is the number of entries of a list; each takes a byte at least, so a larger one is refused before anything
// is made of it.
func (r *reader) length() int {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}

func (r *reader) text() string {
	n := r.length()
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

func (r *reader) shared() string { return store.Intern(r.text()) }

func (r *reader) byteUpTo(most byte) byte {
	if r.rest == "" {
		r.fail(errShort)
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	if c > most {
		r.fail(fmt.Errorf("%d is more than %d", c, most))
		return 0
	}
	return c
}

func (r *reader) addrs() []netip.Addr {
	n := r.length()
	if n == 0 {
		return nil
	}
	addrs := make([]netip.Addr, 0, min(n, 4))
	for range n {
		a, ok := netip.AddrFromSlice([]byte(r.text()))
		if r.err == nil && !ok {
			r.fail(errors.New("an address has neither 4 nor 16 bytes"))
		}
		if r.err != nil {
			return nil
		}
		addrs = append(addrs, a)
	}
	return addrs
}

func (r *reader) ports() []store.Port {
	n := r.length()
	if n == 0 {
		return nil
	}
	ports := make([]store.Port, 0, min(n, 4))
	for range n {
		p := store.Port{Name: r.shared(), Protocol: r.shared()}
		zigzag := r.uvarint()
		number := int64(zigzag>>1) ^ -int64(zigzag&1)
		if number < -1 || number > 65535 {
			r.fail(fmt.Errorf("port %d is none", number))
		}
		if r.err != nil {
			return nil
		}
		p.Number = int32(number)
		ports = append(ports, p)
	}
	return ports
}
