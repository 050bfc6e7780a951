{{/* What every definition carries, below its `metadata`. */}}
{{- define "tollgate-crds.metadata" -}}
labels:
  {{- $labels := dict
    "app.kubernetes.io/name" "tollgate"
    "app.kubernetes.io/instance" .Release.Name
    "app.kubernetes.io/version" .Chart.AppVersion
    "app.kubernetes.io/component" "crds"
    "app.kubernetes.io/part-of" "tollgate"
    "app.kubernetes.io/managed-by" .Release.Service
    "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) }}
  {{- mergeOverwrite (deepCopy .Values.commonLabels) $labels | toYaml | nindent 2 }}
{{- $annotations := deepCopy .Values.annotations }}
{{- if .Values.keep }}
{{- $_ := set $annotations "helm.sh/resource-policy" "keep" }}
{{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
