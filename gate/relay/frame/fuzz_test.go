package frame

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// scan feeds the stream in pieces whose lengths are taken from splits, and copies what is found.
func scan(t *testing.T, contentType string, stream, splits []byte) ([]Frame, error) {
	t.Helper()
	s, err := NewScanner(contentType)
	if err != nil {
		t.Fatal(err)
	}
	var found []Frame
	fed := 0
	for i := 0; len(stream) > 0; i++ {
		n := len(stream)
		if len(splits) > 0 {
			n = min(n, int(splits[i%len(splits)]))
		}
		for f, err := range s.Frames(stream[:n:n]) {
			if err != nil {
				return found, err
			}
			f.Bytes = bytes.Clone(f.Bytes)
			found = append(found, f)
		}
		stream, fed = stream[n:], fed+n
		if n == 0 {
			splits = nil
		}
	}
	end := 0
	if len(found) > 0 {
		end = int(found[len(found)-1].End)
	}
	if got := s.Pending(); got != fed-end {
		t.Fatalf("%d bytes are pending, want %d", got, fed-end)
	}
	return found, nil
}

func seeds(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a\"\\","resourceVersion":"12"}}}`+"\n"), []byte{7})
	f.Add([]byte(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n"), []byte{1, 0})
	f.Add([]byte(`{"type":"ERROR","object":{"kind":"Status","code":410}}`+"\n{"), []byte{200})
	f.Add(protobufFrame("MODIFIED", "v", "77", nil), []byte{3, 1})
	f.Add(protobufFrame("BOOKMARK", "", "8", map[string]string{metav1.InitialEventsAnnotationKey: "true"}), []byte{5})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0}, []byte{2})
}

// protobufFrame is a frame as the API server's own code encodes it.
func protobufFrame(typ, name, version string, annotations map[string]string) []byte {
	object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version, Annotations: annotations}}
	raw, err := object.Marshal()
	if err != nil {
		panic(err)
	}
	return protobufFrameOf(typ, raw)
}

func protobufFrameOf(typ string, raw []byte) []byte {
	unknown, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{Kind: "Pod", APIVersion: "v1"}, Raw: raw}).Marshal()
	if err != nil {
		panic(err)
	}
	event, err := (&metav1.WatchEvent{Type: typ, Object: runtime.RawExtension{Raw: append(bytes.Clone(magic), unknown...)}}).Marshal()
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(event))), event...)
}

// Whatever comes, and wherever it is split: no panic, the same frames, and together with what is pending they are the
// stream.
func FuzzScanner(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, stream, splits []byte) {
		for _, contentType := range []string{JSON, Protobuf} {
			want, wantErr := scan(t, contentType, stream, nil)
			got, gotErr := scan(t, contentType, stream, splits)
			if diff := cmp.Diff(want, got); diff != "" || (wantErr == nil) != (gotErr == nil) {
				t.Fatalf("%s: split the frames differ (-whole +split):\n%s\nerrors: %v, %v", contentType, diff, wantErr, gotErr)
			}
			var together []byte
			for _, frame := range got {
				together = append(together, frame.Bytes...)
				if int64(len(together)) != frame.End {
					t.Fatalf("a frame ends at %d, want %d", frame.End, len(together))
				}
				if (frame.Version == 0) != (frame.Type == Error) {
					t.Fatalf("%s has version %d", frame.Type, frame.Version)
				}
			}
			if !bytes.HasPrefix(stream, together) {
				t.Fatal("the frames are not what was fed")
			}
		}
	})
}

// What encoding/json and the API machinery's protobuf write is read as it was meant, whatever the strings are.
func FuzzEvent(f *testing.F) {
	f.Add(byte(0), "name", "key", "value", uint64(12), []byte(`{"a":[1,{"metadata":{"resourceVersion":"3"}}]}`))
	f.Add(byte(3), `"}]\`, "k8s.io/initial-events-end", "true", uint64(1), []byte(`"\\\""`))
	f.Add(byte(1), "\u2028\x00", "resourceVersion", "x", uint64(1<<64-1), []byte(`-1.5e3`))
	f.Fuzz(func(t *testing.T, kind byte, name, key, value string, version uint64, other []byte) {
		typ := Type(kind%4) + 1
		version = max(version, 1)
		var spec any
		if json.Unmarshal(other, &spec) != nil {
			spec = string(other)
		}
		end := typ == Bookmark && key == metav1.InitialEventsAnnotationKey && value == "true"
		annotations := map[string]string{key: value}
		// A struct's keys come as declared, a map's sorted: both orders are served.
		object := map[string]any{
			"apiVersion": "v1", "kind": name, "spec": spec, "Metadata": spec, "a": spec,
			"metadata": map[string]any{"resourceVersion": strconv.FormatUint(version, 10), "name": name, "annotations": annotations, "z": spec},
		}
		meta := metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{Kind: name},
			ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: strconv.FormatUint(version, 10), Annotations: annotations},
		}
		for _, event := range []any{
			map[string]any{"type": typ.String(), "object": object},
			map[string]any{"type": typ.String(), "object": meta},
			map[string]any{"type": typ.String(), "object": meta, "another": spec},
		} {
			line, err := json.Marshal(event)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, JSON, append(line, '\n'), typ, version, end)
		}
		expect(t, Protobuf, protobufFrame(typ.String(), name, strconv.FormatUint(version, 10), annotations), typ, version, end)
	})
}

func expect(t *testing.T, contentType string, b []byte, typ Type, version uint64, end bool) {
	t.Helper()
	got, err := scan(t, contentType, b, nil)
	if err != nil {
		t.Fatalf("%v: %q", err, b)
	}
	want := []Frame{{Bytes: b, End: int64(len(b)), Type: typ, Version: version, InitialEventsEnd: end}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%q is read as (-want +got):\n%s", b, diff)
	}
}

// More bytes never change an answer: what is found in a head is what the whole says, and what cannot be found in one
// is not found in a longer one.
func FuzzListVersion(f *testing.F) {
	f.Add([]byte(`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"123"},"items":[]}`))
	f.Add([]byte(`{"apiVersion":"v1","items":[{}],"kind":"WidgetList","metadata":{"continue":"","resourceVersion":"123"}}`))
	f.Add([]byte("k8s\x00\n\x0d\n\x02v1\x12\x07PodList\x12\x08\n\x06\n\x00\x12\x02123"))
	f.Add([]byte(`{"metadata":{"resourceVersion":"1`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, contentType := range []string{JSON, Protobuf} {
			version, ok, _ := ListVersion(contentType, false, body)
			for n := range min(len(body), HeadBytes) {
				v, found, more := ListVersion(contentType, false, body[:n])
				switch {
				case found && (!ok || v != version):
					t.Fatalf("%s: %d bytes say %d, all %d (%t)", contentType, n, v, version, ok)
				case !found && !more && ok:
					t.Fatalf("%s: %d bytes were given up on, all say %d", contentType, n, version)
				case found && more:
					t.Fatal("found, and asking for more")
				}
			}
			z, zok, _ := ListVersion(contentType, true, compress(t, body))
			if zok != ok || z != version {
				t.Fatalf("%s: compressed %d (%t), plain %d (%t)", contentType, z, zok, version, ok)
			}
		}
		ListVersion(JSON, true, body)
		if version, ok := ListVersionTail(body); ok && json.Valid(body) {
			var list struct {
				Metadata struct {
					ResourceVersion string `json:"resourceVersion"`
				} `json:"metadata"`
			}
			if err := json.Unmarshal(body, &list); err == nil && list.Metadata.ResourceVersion != strconv.FormatUint(version, 10) && bytes.Count(body, []byte("etadata")) == 1 && bytes.Count(body, []byte("esourceVersion")) == 1 {
				t.Fatalf("the tail says %d, the list %q: %q", version, list.Metadata.ResourceVersion, body)
			}
		}
	})
}

func compress(t *testing.T, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = z.Write(body)
	_ = z.Close()
	return b.Bytes()
}

func TestRefused(t *testing.T) {
	huge := binary.BigEndian.AppendUint32(nil, MaxFrame+1)
	for name, tc := range map[string]struct {
		contentType string
		stream      []byte
		want        error
	}{
		"a blank line":             {JSON, []byte("\n"), errNoFrame},
		"no object":                {JSON, []byte(`{"type":"ADDED"}` + "\n"), errNoFrame},
		"a type nobody knows":      {JSON, []byte(`{"type":"MOVED","object":{"metadata":{"resourceVersion":"1"}}}` + "\n"), errNoFrame},
		"two on a line":            {JSON, []byte(`{"type":"ERROR","object":{}}{"type":"ERROR","object":{}}` + "\n"), errNoFrame},
		"a line break inside":      {JSON, []byte("{\"type\":\n\"ERROR\",\"object\":{}}\n"), errNoFrame},
		"no version":               {JSON, []byte(`{"type":"ADDED","object":{"metadata":{"name":"a"}}}` + "\n"), errVersion},
		"version 0":                {JSON, []byte(`{"type":"ADDED","object":{"metadata":{"resourceVersion":"0"}}}` + "\n"), errVersion},
		"a version beyond 64 bits": {JSON, []byte(`{"type":"ADDED","object":{"metadata":{"resourceVersion":"18446744073709551616"}}}` + "\n"), errVersion},
		"a version elsewhere":      {JSON, []byte(`{"type":"ADDED","object":{"spec":{"metadata":{"resourceVersion":"1"}}}}` + "\n"), errVersion},
		"protobuf, a huge length":  {Protobuf, huge, ErrTooLong},
		"protobuf, empty":          {Protobuf, []byte{0, 0, 0, 0}, errNoFrame},
		"protobuf, no version":     {Protobuf, protobufFrame("ADDED", "a", "", nil), errVersion},
		"protobuf, cut inside":     {Protobuf, append([]byte{0, 0, 0, 9}, protobufFrame("ADDED", "a", "1", nil)[4:13]...), errNoFrame},
		"JSON, endless":            {JSON, bytes.Repeat([]byte("x"), MaxFrame+1), ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			for _, splits := range [][]byte{nil, {250}} {
				got, err := scan(t, tc.contentType, tc.stream, splits)
				if !errors.Is(err, tc.want) || len(got) > 0 {
					t.Errorf("got %v and %d frames, want %v", err, len(got), tc.want)
				}
			}
		})
	}
	if _, err := NewScanner("application/cbor-seq"); err == nil {
		t.Error("CBOR must be refused")
	}
}

func TestFramesInOneReadAreNotCopied(t *testing.T) {
	one := protobufFrame("MODIFIED", "a", "7", nil)
	stream := bytes.Repeat(one, 100)
	s, err := NewScanner(Protobuf + ";stream=watch")
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, err := range s.Frames(stream) {
			if err != nil {
				t.Error(err)
			}
		}
	}); n > 1 {
		t.Errorf("scanning 100 frames allocates %v times, want at most once", n)
	}
}

func BenchmarkScanner(b *testing.B) {
	object := map[string]any{"kind": "Pod", "metadata": map[string]any{"name": "a", "resourceVersion": "123456", "managedFields": map[string]any{"f": string(bytes.Repeat([]byte("fields "), 200))}}, "spec": string(bytes.Repeat([]byte("spec "), 400))}
	line, err := json.Marshal(map[string]any{"type": "MODIFIED", "object": object})
	if err != nil {
		b.Fatal(err)
	}
	for name, tc := range map[string]struct {
		contentType string
		one         []byte
	}{"JSON": {JSON, append(line, '\n')}, "protobuf": {Protobuf, protobufFrame("MODIFIED", string(bytes.Repeat([]byte("n"), 3000)), "123456", nil)}} {
		b.Run(name, func(b *testing.B) {
			stream := bytes.Repeat(tc.one, 10)
			s, _ := NewScanner(tc.contentType)
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				for _, err := range s.Frames(stream) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
