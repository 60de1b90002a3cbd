package survive

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

var services = kind{Version: "v1", Resource: "services", Kind: "Service", Namespaced: true}

func service(namespace, name string, version uint64, labels map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: strconv.FormatUint(version, 10), Labels: labels},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.0.0.1"},
	}
}

func keptServices(t testing.TB, version uint64, all ...*corev1.Service) *kept {
	t.Helper()
	k := &kept{kind: services}
	var list []any
	for _, s := range all {
		list = append(list, s)
	}
	if err := k.Replace(list, strconv.FormatUint(version, 10)); err != nil {
		t.Fatal(err)
	}
	return k
}

// Whatever happened between two states, whoever is told the changes has the second, in an order in which versions do not
// run backwards, and hears nothing of what it does not select.
func TestChangesLeadFromOneStateToTheOther(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		k := keptServices(t, 1)
		version := uint64(1)
		step := func() {
			version += 1 + r.Uint64N(3)
			name, namespace := fmt.Sprint("s", r.IntN(12)), fmt.Sprint("n", r.IntN(3))
			s := service(namespace, name, version, map[string]string{"part": fmt.Sprint(r.IntN(2))})
			switch r.IntN(4) {
			case 0:
				_ = k.Delete(s)
			case 1:
				_ = k.Bookmark(s.ResourceVersion)
			default:
				_ = k.Update(s)
			}
		}
		for range r.IntN(40) {
			step()
		}
		from := k.snapshot()
		for range r.IntN(40) {
			step()
		}
		to := k.snapshot()
		if from.version > to.version || to.changed > to.version {
			t.Fatalf("seed %d: versions %d, %d (changed %d)", seed, from.version, to.version, to.changed)
		}
		for what, matches := range map[string]func(*object) bool{
			"everything":  func(*object) bool { return true },
			"a namespace": func(o *object) bool { return o.namespace == "n1" },
			"a label":     func(o *object) bool { return o.labels["part"] == "1" },
		} {
			has := map[string]uint64{}
			for _, o := range from.objects {
				if matches(o) {
					has[o.key()] = o.version
				}
			}
			last := uint64(0)
			for _, c := range changes(from, to, matches) {
				at := c.version
				if at == 0 {
					at = c.object.version
				}
				if at < last || at > to.version || at <= from.changed {
					t.Fatalf("seed %d, %s: an event of version %d after %d, from %d to %d", seed, what, at, last, from.changed, to.version)
				}
				last = at
				_, had := has[c.object.key()]
				if had != (c.event != watch.Added) || !matches(c.object) {
					t.Fatalf("seed %d, %s: %s of %s, which is there: %t", seed, what, c.event, c.object.key(), had)
				}
				if c.event == watch.Deleted {
					delete(has, c.object.key())
				} else {
					has[c.object.key()] = c.object.version
				}
			}
			want := 0
			for _, o := range to.objects {
				if !matches(o) {
					continue
				}
				want++
				if has[o.key()] != o.version {
					t.Fatalf("seed %d, %s: %s is at %d, want %d", seed, what, o.key(), has[o.key()], o.version)
				}
			}
			if len(has) != want {
				t.Fatalf("seed %d, %s: %d objects, want %d", seed, what, len(has), want)
			}
		}
	}
}

func TestWhoHasSeenTheState(t *testing.T) {
	k := keptServices(t, 10, service("a", "x", 7, nil))
	if s := k.snapshot(); s.changed != 10 || s.version != 10 {
		t.Errorf("after a list: changed %d, version %d; what was deleted before is not known", s.changed, s.version)
	}
	_ = k.Bookmark("15")
	if s := k.snapshot(); s.changed != 10 || s.version != 15 {
		t.Errorf("after a bookmark: changed %d, version %d", s.changed, s.version)
	}
	_ = k.Delete(service("a", "x", 18, nil))
	if s := k.snapshot(); s.changed != 18 || s.version != 18 || len(s.objects) != 0 || k.bytes != 0 {
		t.Errorf("after a deletion: %+v, %d bytes", s, k.bytes)
	}
	if err := k.Replace(nil, "nonsense"); err == nil {
		t.Error("a version that is no number is taken")
	}
}

// What was another cluster's is dropped while its reflector may still write.
func TestDropped(t *testing.T) {
	k := keptServices(t, 10, service("a", "x", 7, nil))
	k.drop()
	if err := k.Update(service("a", "y", 12, nil)); err != nil || k.snapshot() != nil {
		t.Errorf("after a drop one object is taken for all: %v, %v", k.snapshot(), err)
	}
	if err := k.Replace([]any{service("a", "z", 13, nil)}, "13"); err != nil || len(k.snapshot().objects) != 1 {
		t.Errorf("after a list: %v, %v", k.snapshot(), err)
	}
}
