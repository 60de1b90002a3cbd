package config

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// fieldsOf maps the names in a file to a struct's fields, embedded structs included. Names are matched exactly:
// encoding/json would ignore case, and a file accepted here but not by a stricter reader helps nobody.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || f.Anonymous {
			continue
		}
		if name, _ := jsonName(f); name != "" {
			fields[name] = f.Index
		}
	}
	return fields
}

// jsonName is a field's name in a file, "" for one that is never written, and whether it may be left out.
func jsonName(f reflect.StructField) (name string, optional bool) {
	tag := f.Tag.Get("json")
	if tag == "-" {
		return "", true
	}
	name, options, _ := strings.Cut(tag, ",")
	if name == "" {
		name = f.Name
	}
	return name, slices.ContainsFunc(strings.Split(options, ","), func(o string) bool {
		return o == "omitempty" || o == "omitzero"
	})
}

// suggest names the field that was probably meant.
func suggest(name string, fields map[string][]int) string {
	best, distance := "", 2
	for candidate := range fields {
		d := editDistance(strings.ToLower(name), strings.ToLower(candidate), distance+1)
		if d < distance || d == distance && (best == "" || candidate < best) {
			best, distance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// editDistance is Levenshtein's, given up at the limit.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return min(row[len(b)], limit)
}

var (
	durationType = reflect.TypeFor[metav1.Duration]()
	quantityType = reflect.TypeFor[resource.Quantity]()
	timeType     = reflect.TypeFor[metav1.Time]()
	countType    = reflect.TypeFor[intstr.IntOrString]()
)

// typeName is what a user is told to write.
func typeName(t reflect.Type) string {
	switch t {
	case durationType:
		return "a duration like 30s"
	case quantityType:
		return "a quantity like 64Mi"
	case timeType:
		return "a time like 2024-12-11T15:12:00Z"
	case countType:
		return "a whole number or a share like 25%"
	}
	return "a " + strings.ToLower(t.Name())
}
