package way

import (
	"context"
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Prove asks the API server whether a way to it may do all this. The error names every right that is missing; whose is the kubeconfig's
// field in a Fleet.
func Prove(ctx context.Context, client kubernetes.Interface, whose string, rights []authorizationv1.ResourceAttributes) error {
	var errs []error
	for i := range rights {
		review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &rights[i]},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("asking the API server what %s may do: %w", whose, err)
		}
		if !review.Status.Allowed {
			errs = append(errs, fmt.Errorf("%s may not %s", whose, said(rights[i])))
		}
	}
	return errors.Join(errs...)
}

// said is a right in words: delete pods in telemetry.
func said(r authorizationv1.ResourceAttributes) string {
	text := r.Verb + " " + r.Resource
	if r.Group != "" {
		text += "." + r.Group
	}
	if r.Name != "" {
		text += " " + r.Name
	}
	if r.Namespace != "" {
		text += " in " + r.Namespace
	}
	return text
}
