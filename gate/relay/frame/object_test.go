package frame

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func podFrame(t *testing.T, contentType string, typ Type, pod *corev1.Pod) []byte {
	t.Helper()
	if contentType == JSON {
		line, err := json.Marshal(map[string]any{"type": typ.String(), "object": pod})
		if err != nil {
			t.Fatal(err)
		}
		return append(line, '\n')
	}
	raw, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return protobufFrameOf(typ.String(), raw)
}

// podOf reads the frame with the API machinery.
func podOf(t *testing.T, contentType string, b []byte) (string, *corev1.Pod) {
	t.Helper()
	var pod corev1.Pod
	if contentType == JSON {
		var event struct {
			Type   string
			Object *corev1.Pod
		}
		event.Object = &pod
		if err := json.Unmarshal(b, &event); err != nil {
			t.Fatal(err)
		}
		return event.Type, &pod
	}
	var event metav1.WatchEvent
	if err := event.Unmarshal(b[4:]); err != nil {
		t.Fatal(err)
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(event.Object.Raw[len(magic):]); err != nil {
		t.Fatal(err)
	}
	if err := pod.Unmarshal(unknown.Raw); err != nil {
		t.Fatal(err)
	}
	return event.Type, &pod
}

// What is read of an object, and an event written as another, are what the API machinery makes of them.
func FuzzObject(f *testing.F) {
	f.Add("default", "web-1", "node-7", "app", "web", uint64(9), uint64(10))
	f.Add("", "\"\\\u2028", "", "x", "}{", uint64(1<<63), uint64(1))
	f.Fuzz(func(t *testing.T, namespace, name, node, key, value string, version, later uint64) {
		version, later = max(version, 1), max(later, 1)
		pod := &corev1.Pod{
			TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: name, ResourceVersion: strconv.FormatUint(version, 10),
				Labels: map[string]string{key: value, "other": "1"}, Annotations: map[string]string{"resourceVersion": value},
			},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: name, Image: value}}},
		}
		for _, contentType := range []string{JSON, Protobuf} {
			b := podFrame(t, contentType, Modified, pod)
			_, want := podOf(t, contentType, b) // strings that are not UTF-8 are not what they were
			got, err := ObjectOf(contentType, b)
			if err != nil {
				t.Fatal(err)
			}
			object := Object{Namespace: want.Namespace, Name: want.Name, NodeName: want.Spec.NodeName, Labels: want.Labels}
			if diff := cmp.Diff(object, got); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", contentType, diff)
			}
			added, err := AsType(contentType, b, Added)
			if err != nil {
				t.Fatal(err)
			}
			typ, same := podOf(t, contentType, added)
			if diff := cmp.Diff(want, same); diff != "" || typ != "ADDED" {
				t.Fatalf("%s as ADDED is %s (-want +got):\n%s", contentType, typ, diff)
			}
			deleted, err := AsDeleted(contentType, b, later)
			if err != nil {
				t.Fatal(err)
			}
			want.ResourceVersion = strconv.FormatUint(later, 10)
			typ, moved := podOf(t, contentType, deleted)
			if diff := cmp.Diff(want, moved); diff != "" || typ != "DELETED" {
				t.Fatalf("%s as DELETED at %d is %s (-want +got):\n%s", contentType, later, typ, diff)
			}
			found, err := scan(t, contentType, deleted, nil)
			if err != nil || len(found) != 1 || found[0].Type != Deleted || found[0].Version != later {
				t.Fatalf("%s: the scanner finds %+v (%v)", contentType, found, err)
			}
		}
	})
}

// Bytes from anywhere are refused or read, never a panic; and what was read as an event with an object can be written as
// another.
func FuzzObjectOfAnything(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b, _ []byte) {
		for _, contentType := range []string{JSON, Protobuf} {
			_, _ = ObjectOf(contentType, b)
			_, _ = AsType(contentType, b, Added)
			_, _ = AsDeleted(contentType, b, 7)
			found, _ := scan(t, contentType, b, nil)
			for _, frame := range found {
				if frame.Type == Error {
					continue
				}
				if _, err := AsType(contentType, frame.Bytes, Added); err != nil {
					t.Fatalf("%q cannot be written as ADDED: %v", frame.Bytes, err)
				}
				deleted, err := AsDeleted(contentType, frame.Bytes, 7)
				if err != nil {
					t.Fatalf("%q cannot be written as DELETED: %v", frame.Bytes, err)
				}
				if again, err := scan(t, contentType, deleted, nil); err != nil || len(again) != 1 || again[0].Version != 7 {
					t.Fatalf("%q is read as %+v (%v)", deleted, again, err)
				}
			}
		}
	})
}
